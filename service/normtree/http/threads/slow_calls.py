"""A thread beside the event loop, for what may take long or hang: no disk of others ever holds the loop up."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from normtree.errors import DeadlineExceeded, QueueFull

_RETRY_AFTER_S = 5
T = TypeVar("T")


class Aside:
    """One thread, which does one piece of work after the other. It holds up no end of the process.

    Args:
        name: of the thread.
        waiting_limit: pieces of work that may wait for it.
        deadline_s: seconds after which nobody waits for a piece of work any more, its turn included.
    """

    def __init__(self, name: str, waiting_limit: int, deadline_s: float) -> None:
        self._waiting_limit, self._deadline_s = waiting_limit, deadline_s
        self._work: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._more = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    async def run(self, work: Callable[[], T]) -> T:
        """Do a piece of work on the thread and return its result.

        Args:
            work: called with no arguments; what it raises is raised.

        Raises:
            QueueFull: too many wait already.
            DeadlineExceeded: it took too long.
        """
        future: Future[T] = Future()
        piece = (future, work)
        with self._more:
            if len(self._work) >= self._waiting_limit:
                raise QueueFull(
                    f"at most {self._waiting_limit} such requests may wait",
                    limit=self._waiting_limit,
                    retry_after_s=_RETRY_AFTER_S,
                )
            if self._thread.ident is None:
                self._thread.start()
            self._work.append(piece)
            self._more.notify()
        try:
            async with asyncio.timeout(self._deadline_s):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            detail = f"deadline: the work took longer than {self._deadline_s:g} s"
            raise DeadlineExceeded(detail, limit=self._deadline_s) from None
        finally:
            with self._more, suppress(ValueError):  # it has begun
                self._work.remove(piece)

    def _run(self) -> None:
        while True:
            with self._more:
                self._more.wait_for(lambda: self._work)
                future, work = self._work.popleft()
            if not future.set_running_or_notify_cancel():  # nobody waits any more
                continue
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)
