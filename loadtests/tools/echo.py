"""An application that sends a body back: the floor that moving a tensor over HTTP has, whatever is done with it.

It runs on the service's own uvicorn settings. The body is received into a pooled buffer, touched before, and is
sent back from there by slices, as the service sends: so the difference to the service is what projecting costs.

Usage: python loadtests/tools/echo.py PORT stock|ours|kept

``stock`` is uvicorn's own protocol; ``ours`` the service's, which passes bodies on with two copies fewer; ``kept`` that
with an allocator that keeps freed memory, as the service's does too: the hardest floor, for it shares all we gained.
"""

import sys
from typing import Any

import uvicorn

from normtree.http.connection.malloc import keep_freed_memory
from normtree.http.server import server_config
from normtree.settings import Settings

BUFFER_BYTES = 2**28
SLICE_BYTES = 2**20


def make_echo() -> Any:
    buffer = memoryview(bytearray(BUFFER_BYTES))

    async def echo(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for kind in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{kind}.complete"})
            return
        length = await _take(receive, buffer)
        headers = [(b"content-type", b"application/octet-stream"), (b"content-length", str(length).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for start in range(0, length, SLICE_BYTES):
            part = buffer[start : min(start + SLICE_BYTES, length)]
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return echo


async def _take(receive: Any, buffer: memoryview) -> int:
    position = 0
    while True:
        message = await receive()
        part = message.get("body", b"")
        buffer[position : position + len(part)] = part
        position += len(part)
        if not message.get("more_body", False):
            return position


if __name__ == "__main__":
    port, kind = sys.argv[1:]
    if kind == "kept":
        keep_freed_memory()
    config = server_config(make_echo(), Settings(port=int(port), inline_only=True, log_level="warning"))
    if kind == "stock":
        config.http = "httptools"
    uvicorn.Server(config).run()
