"""Admission: which requests with a tensor may begin, decided by their declared length before the body is read.

A client that sent ``Expect: 100-continue`` is told to go on when its body is first asked for, so one that is refused
here, or waits here, has sent nothing.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import lru_cache
from time import perf_counter
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from normtree.engine.arena import segment_bytes
from normtree.errors import Drained, NotReady
from normtree.http.allowance import Allowance, Quota
from normtree.http.auth import client_name
from normtree.http.gate import Gate
from normtree.settings import Settings

_RETRY_AFTER_S = 1
_TENSOR_PATHS = re.compile(r"/v1/project|/v2/models/[^/]+(?:/versions/[^/]+)?/infer")
_MS_PER_S = 1e3
_QUERIES_KEPT = 256


def takes_tensor(path: str) -> bool:
    """Tell whether what is posted to a path, or to a template of one, holds tensors."""
    return _TENSOR_PATHS.fullmatch(path) is not None


class Admission:
    """What is in flight, what waits, and whether anything new is taken.

    Attributes:
        draining: nothing new is taken, and what is in flight may finish.
    """

    def __init__(self, settings: Settings) -> None:
        """Begin with nothing in flight."""
        self.draining = False
        self._cancelled = False
        self._deadline_s = settings.deadline_s
        self._capacity_bytes = settings.arena_bytes
        self._gate = Gate(settings.arena_bytes, settings.queue_limit)
        self._quota = Quota(settings.key_rate_per_s, settings.key_burst, settings.key_bytes_limit)
        self._allowances: dict[str, Allowance] = {}
        self._tasks: set[asyncio.Task[object]] = set()

    @property
    def inside_bytes(self) -> int:
        """Bytes of shared memory that requests in flight were admitted with."""
        return self._gate.inside_bytes

    @property
    def waiting(self) -> int:
        """Requests that wait for memory."""
        return self._gate.waiting

    @property
    def in_flight(self) -> int:
        """Requests with a tensor that were taken and are not yet answered, those that wait included."""
        return len(self._tasks)

    async def drain(self, timeout_s: float) -> None:
        """Take nothing new, wait until what is in flight is answered, and cancel what is left after the time given."""
        self.draining = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)
        self._cancelled = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_RETRY_AFTER_S)

    @asynccontextmanager
    async def admitted(self, scope: Scope) -> AsyncIterator[None]:
        """Take a request or refuse it; while inside, it counts as in flight.

        Raises:
            NotReady: draining.
            Drained: the drain's time is up, and the request was cancelled.
            RateExceeded, BytesExceeded: more than its client may use.
            QueueFull, DeadlineExceeded: as `Gate.enter`.
        """
        if self.draining:
            raise NotReady("the service is draining", retry_after_s=_RETRY_AFTER_S)
        client, nbytes = client_name(scope), self._bytes_needed(scope)
        allowance = self._allowances.setdefault(client, Allowance(client, self._quota))
        allowance.take(nbytes)
        task = asyncio.current_task()
        if task:
            self._tasks.add(task)
        try:
            await self._wait_for_turn(scope, nbytes)
            try:
                yield
            finally:
                self._gate.leave(nbytes)
        except asyncio.CancelledError:
            if task is None or not self._cancelled:
                raise
            task.uncancel()
            raise Drained("the service is draining, and its time is up", retry_after_s=_RETRY_AFTER_S) from None
        finally:
            allowance.give_back(nbytes)
            if task:
                self._tasks.discard(task)

    async def _wait_for_turn(self, scope: Scope, nbytes: int) -> None:
        """Go through the gate, and note in the request's state how long that took."""
        began = perf_counter()
        end_s = asyncio.get_running_loop().time() + self._time_left_s(scope)
        await self._gate.enter(nbytes, end_s)
        scope["state"]["queued_ms"] = _MS_PER_S * (perf_counter() - began)

    def _bytes_needed(self, scope: Scope) -> int:
        """Return the shared memory that a request will want: a segment for its tensors and one for the answer.

        Without a length, or with one that could never be held, that is none: its route will refuse it.
        """
        text = Headers(scope=scope).get("content-length", "")
        if not (text.isascii() and text.isdigit() and len(text) <= len(str(self._capacity_bytes))):
            return 0
        nbytes = 2 * segment_bytes(int(text))
        return nbytes if nbytes <= self._capacity_bytes else 0

    def _time_left_s(self, scope: Scope) -> float:
        """Return how long a request may wait: its own deadline where its query has one, else the service's."""
        wanted_s = _wanted_s(scope["query_string"])
        return self._deadline_s if wanted_s is None else min(self._deadline_s, max(0.0, wanted_s))


@lru_cache(_QUERIES_KEPT)
def _wanted_s(query: bytes) -> float | None:
    """Return the deadline that a query names, whatever it is; None where it names none."""
    for text in parse_qs(query.decode("latin-1")).get("deadline_ms", ()):
        with suppress(ValueError):
            return float(text) / _MS_PER_S
    return None


class Admit:
    """ASGI middleware that lets a request with a tensor through when `Admission` admits it, and all others at once.

    Health and metrics are thus answered whatever else is in flight.
    """

    def __init__(self, app: ASGIApp, admission: Admission) -> None:
        """Wrap an application."""
        self._app = app
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] != "POST" or not takes_tensor(scope["path"]):
            await self._app(scope, receive, send)
            return
        async with self._admission.admitted(scope):
            await self._app(scope, receive, send)
