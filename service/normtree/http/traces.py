"""Traces that clients asked for: kept a while in memory, since headers are no place for them, drawn when fetched."""

import secrets
from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from time import monotonic

from normtree.engine.timing import Timing
from normtree.errors import TraceNotFound

PATH = "/v1/traces"
HEADER = "X-Normtree-Trace"

_KEPT_S = 600.0
_TRACES_LIMIT = 256
_SPANS_LIMIT = 200_000


@dataclass(frozen=True)
class _Kept:
    client: str
    timing: Timing
    end_s: float


class Traces:
    """The last traces, each for whoever asked for it, for ten minutes or until newer ones need the room.

    They lie in this process: behind a balancer, who asks another replica for one is told that it may lie elsewhere.
    """

    def __init__(self) -> None:
        """Start with none."""
        self._lock = Lock()
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._spans = 0

    def keep(self, client: str, timing: Timing) -> str:
        """Keep what a trace is drawn from, and return the path at which it is found."""
        name = secrets.token_urlsafe(16)
        with self._lock:
            self._kept[name] = _Kept(client, timing, monotonic() + _KEPT_S)
            self._spans += len(timing.spans)
            while len(self._kept) > _TRACES_LIMIT or (self._spans > _SPANS_LIMIT and len(self._kept) > 1):
                _, dropped = self._kept.popitem(last=False)
                self._spans -= len(dropped.timing.spans)
        return f"{PATH}/{name}"

    def find(self, name: str, client: str) -> Timing:
        """Return what was kept under a name.

        Raises:
            TraceNotFound: nothing, or not any more, or for another client.
        """
        with self._lock:
            kept = self._kept.get(name)
        if kept is None or kept.client != client or kept.end_s < monotonic():
            raise TraceNotFound(
                f"there is no such trace of this client here: each process of the service keeps its own, for "
                f"{_KEPT_S:.0f} s and at most {_TRACES_LIMIT}; behind a balancer, another may have it",
                pointer="trace",
                got=name,
            )
        return kept.timing
