"""Work of the event loop that others' bytes may make long: on a thread, where it is."""

from collections.abc import Callable
from typing import TypeVar

from starlette.concurrency import run_in_threadpool

T = TypeVar("T")
SHORT_BYTES = 2**15  # of a text that is parsed sooner than a thread would have begun to
FEW = 64  # tensors that are gone through as soon


async def off_loop(work: Callable[[], T], *, short: bool) -> T:
    """Do a piece of work that waits for nothing, and return its result.

    On a thread the loop takes its turn every few milliseconds, however long the work is.

    Args:
        work: called with no arguments.
        short: whether it is over at once; then it is done here.
    """
    return work() if short else await run_in_threadpool(work)
