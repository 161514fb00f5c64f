"""Clients' shared memory, lent to a request in the place of its body or of its answer."""

from collections.abc import Awaitable, Mapping
from contextlib import ExitStack
from typing import TypeVar

from starlette.requests import Request

from normtree.errors import NotLocal, RegionRefused
from normtree.http.access.auth import caller_of
from normtree.http.inference.shared_regions import Regions, Use
from normtree.http.request.format import Arrival
from normtree.loopback import is_loopback

T = TypeVar("T")


def lend(request: Request, regions: Regions | None, arrival: Arrival, held: ExitStack) -> Mapping[str, Use]:
    """Return what a request uses of clients' shared memory, in the place of its body or of its answer.

    Args:
        request: whose it is.
        regions: that clients have registered; None where none are taken.
        arrival: names some of them, or none.
        held: what gives them back.

    Raises:
        NotLocal: the client is on another machine.
        RegionRefused: there is no such region, or it is too short.
        InvalidParameter: the parts overlap, or begin where no element can.
    """
    if not (arrival.source or arrival.target):
        return {}
    if regions is None:
        raise RegionRefused("shared_memory_region: this service takes no shared memory", pointer="name")
    check_local(request)
    caller, (entry,) = caller_of(request.scope), arrival.chosen
    if arrival.source and arrival.target:
        regions.check_apart(caller, arrival.source, arrival.target)
    parts = {"source": arrival.source, "target": arrival.target}
    return {place: held.enter_context(regions.use(caller, part, entry)) for place, part in parts.items() if part}


async def watch(lent: Mapping[str, Use], doing: Awaitable[T]) -> T:
    """Wait for work in lent memory; where a client cut its segment short meanwhile, whatever came of it is refused.

    Raises:
        RegionRefused: one did.
    """
    try:
        done = await doing
    except Exception as error:
        for use in lent.values():
            use.region.guarded.cut |= isinstance(error, RegionRefused)  # by a worker, whose map is too short
            use.region.check()
        raise
    for use in lent.values():
        use.region.check()
    return done


def check_local(request: Request) -> None:
    """Refuse clients on other machines: their names for shared memory mean other memory.

    Raises:
        NotLocal: the client is not on this machine.
    """
    if request.client and not is_loopback(request.client.host):  # a socket of the file system has no address
        raise NotLocal("shared memory is for clients on this machine, over a loopback address")
