"""Admission: which requests with a tensor may begin, decided by their declared length before the body is read.

A client that sent ``Expect: 100-continue`` is told to go on when its body is first asked for, so one that is refused
here, or waits here, has sent nothing.
"""

import asyncio
import re
from time import perf_counter
from types import TracebackType

from starlette.types import ASGIApp, Receive, Scope, Send

from normtree.engine.memory.arena import segment_bytes
from normtree.errors import Drained, NotReady
from normtree.http.access.auth import client_name, is_open
from normtree.http.admission.client_quota import Allowance, Quota
from normtree.http.admission.queue import Gate
from normtree.http.head.head import head_of
from normtree.http.head.query import deadline_s_of
from normtree.settings import Settings

_RETRY_AFTER_S = 1
_TENSOR_PATHS = re.compile(r"/v1/project|/v2/models/[^/]+(?:/versions/[^/]+)?/infer")
_MS_PER_S = 1e3
_LOOKS = 10  # requests without a tensor for each with one
_STAY = "stay"  # in the state of a request's scope


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
        self._most_bytes = min(settings.arena_bytes, settings.key_bytes_limit or settings.arena_bytes)
        self._gate = Gate(settings.arena_bytes, settings.queue_limit)
        self._quota = Quota(settings.key_rate_per_s, settings.key_burst, settings.key_bytes_limit)
        self._allowances: dict[str, Allowance] = {}
        self._others = _quota_of_others(settings)
        self._allowances_of_others: dict[str, Allowance] = {}
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

    def count(self, client: str) -> None:
        """Count a request without a tensor. They have a rate of their own, so that looking takes none from working.

        Raises:
            RateExceeded: its client may not ask again so soon.
        """
        if self._others.rate_per_s is None:
            return
        found = self._allowances_of_others.get(client)
        if found is None:
            found = self._allowances_of_others[client] = Allowance(client, self._others)
        found.take(0)

    def admitted(self, scope: Scope) -> "_Stay":
        """Return the context in which a request is in flight; to enter it is to be taken, at once or after waiting.

        Raises:
            NotReady: draining.
            Drained: the drain's time is up, and the request was cancelled.
            BodyTooLarge, RateExceeded, BytesExceeded: more than its client may use.
            QueueFull, DeadlineExceeded: as `Gate.enter`.
        """
        return _Stay(self, scope)

    async def settle(self, scope: Scope, nbytes: int) -> float:
        """Hold for a request what it turns out to want, once its header has been read; tell how long that waited.

        Its declared length is an estimate: of what is compressed too little, and of tensors that are not projected too
        much. Who wants more lets go of what he has and waits for all of it, so that no two wait for each other.

        Args:
            scope: of a request that is in flight.
            nbytes: shared memory that it will lease; what the arena could never hold is left for the lease to refuse.

        Raises:
            BodyTooLarge, BytesExceeded: more than its client may use.
            QueueFull, DeadlineExceeded: as `Gate.enter`.
        """
        stay: _Stay = scope["state"][_STAY]
        if nbytes > self._capacity_bytes:
            return 0.0
        if nbytes > stay.nbytes:
            stay.allowance.take_more(nbytes - stay.nbytes, stay.nbytes)
        else:
            stay.allowance.give_back(stay.nbytes - nbytes)
        had, stay.nbytes = stay.inside_bytes, nbytes
        if nbytes <= had:
            stay.inside_bytes = nbytes
            self._gate.leave(had - nbytes)
            return 0.0
        stay.inside_bytes = 0
        self._gate.leave(had)
        return await self._enter(stay)

    async def _take(self, stay: "_Stay") -> None:
        """Count a request as in flight, and let it through the gate."""
        if self.draining:
            raise NotReady("the service is draining", retry_after_s=_RETRY_AFTER_S)
        stay.allowance.take(stay.nbytes)
        stay.scope["state"][_STAY] = stay
        if stay.task:
            self._tasks.add(stay.task)
        try:
            await self._enter(stay)
        except BaseException as error:
            self._forget(stay, error)
            raise

    def _let_go(self, stay: "_Stay", error: BaseException | None) -> None:
        """Let a request out that was let in; ``error`` is what it ended with."""
        self._gate.leave(stay.inside_bytes)
        self._forget(stay, error)

    def _forget(self, stay: "_Stay", error: BaseException | None) -> None:
        """Count a request as in flight no more; say why where it was the drain that cancelled it."""
        stay.allowance.give_back(stay.nbytes)
        if stay.task:
            self._tasks.discard(stay.task)
            if self._cancelled and isinstance(error, asyncio.CancelledError):
                stay.task.uncancel()
                raise Drained("the service is draining, and its time is up", retry_after_s=_RETRY_AFTER_S) from None

    async def _enter(self, stay: "_Stay") -> float:
        """Go through the gate, tell how long that took, and note it in the request's state."""
        waited_s = 0.0
        if not self._gate.enter_at_once(stay.nbytes):
            began = perf_counter()
            await self._gate.enter(stay.nbytes, asyncio.get_running_loop().time() + self._time_left_s(stay.scope))
            waited_s = perf_counter() - began
            state = stay.scope["state"]
            state["queued_ms"] = state.get("queued_ms", 0.0) + _MS_PER_S * waited_s
        stay.inside_bytes = stay.nbytes
        return waited_s

    def _allowance(self, client: str) -> Allowance:
        """Return what a client has left."""
        found = self._allowances.get(client)
        if found is None:
            found = self._allowances[client] = Allowance(client, self._quota)
        return found

    def _bytes_needed(self, scope: Scope) -> int:
        """Estimate the shared memory that a request will want: a segment for its tensors and one for the answer.

        They may turn out to be smaller, so it is no more than there is, or than its client may have; but no less than
        its body alone. Without a length, or with one that could never be held, it is none: its route will refuse it.
        """
        length = head_of(scope).length
        if length is None or length > self._capacity_bytes:
            return 0
        alone = segment_bytes(length)
        return max(alone, min(2 * alone, self._most_bytes)) if alone <= self._capacity_bytes else 0

    def _time_left_s(self, scope: Scope) -> float:
        """Return how long a request may wait: its own deadline where its query has one, else the service's."""
        wanted_s = deadline_s_of(scope["query_string"])
        return self._deadline_s if wanted_s is None else min(self._deadline_s, max(0.0, wanted_s))


def _quota_of_others(settings: Settings) -> Quota:
    rate_per_s = settings.key_rate_per_s
    return Quota(_LOOKS * rate_per_s if rate_per_s else None, _LOOKS * settings.key_burst, None)


class _Stay:
    """The time that a request is in flight.

    Attributes:
        scope: of the request.
        nbytes: shared memory that it is admitted with.
        inside_bytes: what of it is inside of the gate: all, or nothing while it waits.
        allowance: of its client.
        task: that serves it.
    """

    def __init__(self, admission: Admission, scope: Scope) -> None:
        self._admission = admission
        self.scope = scope
        self.nbytes = admission._bytes_needed(scope)
        self.inside_bytes = 0
        self.allowance = admission._allowance(client_name(scope))
        self.task = asyncio.current_task()

    async def __aenter__(self) -> None:
        await self._admission._take(self)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._admission._let_go(self, error)


class Admit:
    """ASGI middleware that lets a request with a tensor through when `Admission` admits it, and all others at once.

    Health and metrics are thus answered whatever else is in flight; of what else needs a key, each may ask so often.
    """

    def __init__(self, app: ASGIApp, admission: Admission) -> None:
        """Wrap an application."""
        self._app = app
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] != "POST" or not takes_tensor(scope["path"]):
            if scope["type"] == "http" and not is_open(scope["path"]):
                self._admission.count(client_name(scope))
            await self._app(scope, receive, send)
            return
        async with self._admission.admitted(scope):
            await self._app(scope, receive, send)
