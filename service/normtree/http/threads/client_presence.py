"""Work for a client that may leave: it is waited for and, when nobody is there to be answered, ended."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from starlette.types import Receive

from normtree.errors import Cancelled

T = TypeVar("T")


async def while_present(work: Coroutine[Any, Any, T], receive: Receive) -> T:
    """Wait for a piece of work, and cancel it if the client disconnects before.

    Args:
        work: what to wait for.
        receive: of a request whose body has been read to its end.

    Raises:
        Cancelled: the client left; the work has been cancelled.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_departure(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise Cancelled("the client left before it was answered")
    finally:
        for task in (working, leaving):
            task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await working


async def _departure(receive: Receive) -> None:
    """Wait until the client has disconnected."""
    while (await receive())["type"] != "http.disconnect":
        pass
