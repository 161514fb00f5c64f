"""Observation: what became of each request is counted and logged, whatever it was answered."""

import asyncio
from collections.abc import Callable
from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from normtree.http.head.head import CUT, head_of
from normtree.http.watching.exchange import Exchange

_GONE = 499  # no status of HTTP's; nginx's for a client that closed
_FAILED = 500

Observer = Callable[[Exchange], None]


class Observe:
    """ASGI middleware that tells observers of every request when it has ended.

    Args:
        app: the application.
        observers: called in order, on the event loop; none may fail.
    """

    def __init__(self, app: ASGIApp, observers: tuple[Observer, ...]) -> None:
        """Wrap an application."""
        self._app = app
        self._observers = observers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = perf_counter()
        status, sent, complete, gone, failed = 0, 0, False, False, False

        async def watch_in() -> Message:
            nonlocal gone
            message = await receive()
            gone = gone or (message["type"] == "http.disconnect" and not complete)
            return message

        async def watch_out(message: Message) -> None:
            nonlocal status, sent, complete
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body":
                sent += len(message.get("body", b""))
                complete = not message.get("more_body", False)
            await send(message)

        try:
            await self._app(scope, watch_in, watch_out)
        except asyncio.CancelledError:
            gone = True
            raise
        except BaseException:
            failed = True
            raise
        finally:
            gone = gone or scope["state"].get(CUT, False)
            code = _GONE if gone else _FAILED if failed or not status else status
            seconds = perf_counter() - began
            done = Exchange.of(scope, code, gone=gone, seconds=seconds, bytes_in=head_of(scope).length, bytes_out=sent)
            for tell in self._observers:
                tell(done)
