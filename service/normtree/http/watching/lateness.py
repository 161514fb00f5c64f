"""How late the event loop is: a clock on it that rings late while something holds up all requests, health included."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

_EVERY_S = 0.05


@asynccontextmanager
async def lateness_told(tell: Callable[[float], None]) -> AsyncIterator[None]:
    """Tell again and again, while inside, how many seconds late the running loop came to a call that was due."""
    watching = asyncio.create_task(_watch(tell))
    try:
        yield
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


async def _watch(tell: Callable[[float], None]) -> None:
    loop = asyncio.get_running_loop()
    while True:
        due_s = loop.time() + _EVERY_S
        await asyncio.sleep(_EVERY_S)
        tell(max(0.0, loop.time() - due_s))
