"""Traces that clients asked for: kept a while in memory, since headers are no place for them, drawn when fetched."""

import secrets
from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from time import monotonic

from normtree.engine.timing.schema import Timing
from normtree.errors import TraceNotFound
from normtree.http.access.auth import Caller

PATH = "/v1/traces"
HEADER = "X-Normtree-Trace"

_KEPT_S = 600.0
_TRACES_LIMIT = 256
_SPANS_LIMIT = 200_000


@dataclass(frozen=True)
class _Kept:
    timing: Timing
    end_s: float


class Traces:
    """The last traces of each client, for ten minutes or until newer ones of its own need the room.

    They lie in this process: behind a balancer, who asks another replica for one is told that it may lie elsewhere.
    """

    def __init__(self) -> None:
        """Start with none."""
        self._lock = Lock()
        self._kept: dict[str, OrderedDict[str, _Kept]] = {}

    def keep(self, client: str, timing: Timing) -> str:
        """Keep what a trace is drawn from, and return the path at which it is found."""
        name, now = secrets.token_urlsafe(16), monotonic()
        with self._lock:
            kept = self._kept.setdefault(client, OrderedDict())
            kept[name] = _Kept(timing, now + _KEPT_S)
            spans = sum(len(each.timing.spans) for each in kept.values())
            while len(kept) > 1 and (len(kept) > _TRACES_LIMIT or spans > _SPANS_LIMIT or _first(kept).end_s < now):
                _, dropped = kept.popitem(last=False)
                spans -= len(dropped.timing.spans)
        return f"{PATH}/{name}"

    def find(self, name: str, caller: Caller) -> Timing:
        """Return what was kept under a name.

        Raises:
            TraceNotFound: nothing, or not any more, or for another client.
        """
        with self._lock:
            found = [kept[name] for client, kept in self._kept.items() if name in kept and caller.may_use(client)]
        if not found or found[0].end_s < monotonic():
            raise TraceNotFound(
                f"there is no such trace of this client here: each process of the service keeps its own, for "
                f"{_KEPT_S:.0f} s and at most {_TRACES_LIMIT}; behind a balancer, another may have it",
                pointer="trace",
                got=name,
            )
        return found[0].timing


def _first(kept: OrderedDict[str, _Kept]) -> _Kept:
    return next(iter(kept.values()))
