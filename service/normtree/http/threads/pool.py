"""Threads for work that blocks, so that the event loop never does: health is answered while tensors are projected."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import TypeVar

from normtree.engine.cancel import Cancel
from normtree.errors import DeadlineExceeded

T = TypeVar("T")


class Threads:
    """A pool of threads that work on leased segments.

    Args:
        count: threads; work beyond them waits its turn.
        deadline_s: seconds after which nobody waits for a piece of work any more, its turn included, unless it says.
    """

    def __init__(self, count: int, deadline_s: float) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="normtree")
        self._deadline_s = deadline_s

    async def run(
        self, work: Callable[[], T], held: ExitStack, deadline_s: float | None = None, cancel: Cancel | None = None
    ) -> T:
        """Do a piece of work on a thread and return its result.

        If nobody waits for it any more, because of the deadline or a cancellation, it is asked to end, and what is
        held is released when it has ended and not before.

        Args:
            work: called on the thread, with no arguments.
            held: the segments that it reads and writes; it may lease more into it.
            deadline_s: seconds after which nobody waits for it any more; default: those of all work here.
            cancel: how the work is asked to end.

        Raises:
            DeadlineExceeded: it took too long.
        """
        future = self._pool.submit(work)
        wait_s = self._deadline_s if deadline_s is None else deadline_s
        try:
            async with asyncio.timeout(wait_s):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            self._abandon(future, held, cancel)
            raise DeadlineExceeded(f"deadline: the work took longer than {wait_s:g} s", limit=wait_s) from None
        except BaseException:
            self._abandon(future, held, cancel)
            raise

    def close(self) -> None:
        """Drop what has not begun, and wait for what has."""
        self._pool.shutdown(cancel_futures=True)

    @staticmethod
    def _abandon(future: "Future[T]", held: ExitStack, cancel: Cancel | None) -> None:
        """End the work; release what is held when it ends: at once if it has ended, or will never begin."""
        if cancel:
            cancel.set()
        before = held.pop_all()

        def release(_: "Future[T]") -> None:
            before.close()
            held.close()  # what the work has leased since

        future.add_done_callback(release)
