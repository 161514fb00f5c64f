"""Request ids and traces: every request has one of each, its client's or ours, and every answer carries them."""

import re
from random import Random

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from normtree.http.head import trace_context
from normtree.http.head.head import read_head
from normtree.http.head.trace_context import TraceContext

HEADER = "X-Request-Id"
_VALID = re.compile(r"[!-~]{1,128}", re.ASCII)
_BYTES = 16
_NAME = HEADER.lower()
_RAW = _NAME.encode()
_RAW_TRACE = trace_context.HEADER.encode()
_AS_TOLD = (b"x-content-type-options", b"nosniff")  # no answer is to be taken for another type than it says


class RequestId:
    """ASGI middleware that puts a request's id and trace into the scope's state and into the answer's headers.

    An id that the client sent is kept if it is 1 to 128 visible ASCII characters, and otherwise replaced. A trace
    that is in the state already, since a tracer outside began it, is kept.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an application."""
        self._app = app
        self._draw = Random().randbytes  # ids are unique and no secrets: no call of the system for each

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        head = state.get("head")  # of our protocol, which has gone through it already
        if head is None:
            head = state["head"] = read_head(scope["headers"])
        given = head.get(_NAME)
        own = state["request_id"] = given if given and _VALID.fullmatch(given) else self._draw(_BYTES).hex()
        trace = state["trace"] = state.get("trace") or TraceContext.of(head.get(trace_context.HEADER), self._draw)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                ids = [(_RAW, own.encode()), (_RAW_TRACE, str(trace).encode())]
                message["headers"] = [*message["headers"], *ids, _AS_TOLD]
            await send(message)

        await self._app(scope, receive, send_with_id)


def request_id(scope: Scope) -> str:
    """Return the id of the request that a scope belongs to."""
    found: str = scope["state"]["request_id"]
    return found


def trace_of(scope: Scope) -> TraceContext:
    """Return the trace of the request that a scope belongs to."""
    found: TraceContext = scope["state"]["trace"]
    return found
