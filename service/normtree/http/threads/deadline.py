"""Waiting until a deadline, for what is mostly there already: a timer is set only where there is a wait.

To set a timer of the event loop and to take it back costs as much as all the rest of reading a small body.
"""

import asyncio
from collections.abc import Awaitable, Generator
from types import coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def until(deadline_s: float, awaited: Awaitable[T]) -> T:
    """Await something that may take its time, until a deadline.

    Args:
        deadline_s: on the event loop's clock; what is there at once is returned whatever the time.
        awaited: cancelled at the deadline.

    Raises:
        TimeoutError: it was not there in time.
    """
    steps = awaited.__await__()
    try:
        wait = next(steps)
    except StopIteration as done:
        result: T = done.value
        return result
    async with asyncio.timeout_at(deadline_s):
        return await _go_on(steps, wait)


@coroutine
def _go_on(steps: Generator[Any, Any, T], wait: Any) -> Generator[Any, Any, T]:
    """Await the rest of what has come to its first wait."""
    try:
        while True:
            try:
                sent = yield wait
            except BaseException as error:
                wait = steps.throw(error)
            else:
                wait = steps.send(sent)
    except StopIteration as done:
        result: T = done.value
        return result
