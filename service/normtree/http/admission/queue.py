"""A gate that lets requests in by the bytes they will hold, in the order they came."""

import asyncio
from collections import deque
from dataclasses import dataclass

from normtree.errors import DeadlineExceeded, QueueFull

_RETRY_AFTER_S = 1


@dataclass(frozen=True, eq=False)
class _Turn:
    """A request that waits: what it needs, and what is set when it may go in."""

    nbytes: int
    come: "asyncio.Future[None]"


class Gate:
    """Lets in what fits beside what is inside. What does not fit waits, and what comes after it waits behind it.

    Strict order costs a small request some time behind a large one, and in return no size can be starved.

    Args:
        capacity_bytes: most bytes inside at once.
        queue_limit: most requests that wait.

    Attributes:
        inside_bytes: bytes of those inside.
    """

    def __init__(self, capacity_bytes: int, queue_limit: int) -> None:
        self.inside_bytes = 0
        self._capacity_bytes = capacity_bytes
        self._queue_limit = queue_limit
        self._waiting: deque[_Turn] = deque()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def enter_at_once(self, nbytes: int) -> bool:
        """Go in if there is room and nobody waits, and tell whether; if so, `leave` must follow."""
        free = not self._waiting and self._fits(nbytes)
        if free:
            self.inside_bytes += nbytes
        return free

    async def enter(self, nbytes: int, end_s: float) -> None:
        """Go in, at once or after waiting; `leave` must follow.

        Args:
            nbytes: bytes needed, at most the capacity.
            end_s: until when to wait, on the event loop's clock.

        Raises:
            QueueFull: too many wait already.
            DeadlineExceeded: the time was up before there was room.
        """
        if self.enter_at_once(nbytes):
            return
        if len(self._waiting) >= self._queue_limit:
            detail = f"queue: at most {self._queue_limit} requests wait for memory, and so many do"
            raise QueueFull(detail, limit=self._queue_limit, retry_after_s=_RETRY_AFTER_S)
        turn = _Turn(nbytes, asyncio.get_running_loop().create_future())
        self._waiting.append(turn)
        try:
            async with asyncio.timeout_at(end_s):
                await turn.come
        except TimeoutError:
            self._give_up(turn)
            detail = f"queue: no room for {nbytes} bytes of shared memory before the deadline"
            raise DeadlineExceeded(detail, limit=self._capacity_bytes, got=nbytes) from None
        except BaseException:
            self._give_up(turn)
            raise

    def leave(self, nbytes: int) -> None:
        """Go out, with as many bytes as came in, and let in who waits."""
        self.inside_bytes -= nbytes
        self._let_in()

    def _give_up(self, turn: _Turn) -> None:
        """Leave the queue, or the inside if the turn came in the same moment."""
        if turn in self._waiting:
            self._waiting.remove(turn)
            self._let_in()
        else:
            self.leave(turn.nbytes)

    def _let_in(self) -> None:
        while self._waiting and self._fits(self._waiting[0].nbytes):
            turn = self._waiting.popleft()
            self.inside_bytes += turn.nbytes
            if not turn.come.done():
                turn.come.set_result(None)

    def _fits(self, nbytes: int) -> bool:
        return self.inside_bytes + nbytes <= self._capacity_bytes
