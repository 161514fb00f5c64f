"""A connection: uvicorn's fast protocol, with bounds on what a client may make it hold or wait for.

uvicorn bounds neither the size of a request's head nor the time it takes, nor a connection that says nothing, nor a
client that does not read its answer, or goes on sending after it. Each would let a few bytes of a stranger hold memory,
a descriptor or a segment.
"""

import asyncio
import uuid
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, cast

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from normtree.http.alarm import Alarm
from normtree.http.linger import Lingering
from normtree.http.problems import MEDIA_TYPE, make_problem
from normtree.settings import Settings

_CODES = {400: "malformed-request", 408: "head-timeout", 431: "head-too-large", 503: "too-many-connections"}


@dataclass(frozen=True)
class Bounds:
    """What one client may ask of a connection, and all clients of the server.

    Attributes:
        head_bytes: most bytes in a request's line and headers.
        head_s: seconds that they may take, a connection's first silence included.
        unread_s: seconds that an answer may wait for its client to read on.
        connections: most of them at once.
        body_s: seconds that the rest of a body may take that was answered before it was here.
        linger_bytes: most bytes of a client that are dropped while it is hung up on.
        linger_s: seconds that this may take.
    """

    head_bytes: int
    head_s: float
    unread_s: float
    connections: int
    body_s: float
    linger_bytes: int
    linger_s: float

    @classmethod
    def of(cls, settings: Settings) -> "Bounds":
        """Take them from the settings."""
        return cls(
            head_bytes=settings.head_limit_bytes,
            head_s=settings.head_timeout_s,
            unread_s=settings.unread_timeout_s,
            connections=settings.connections_limit,
            body_s=settings.body_timeout_s,
            linger_bytes=settings.linger_limit_bytes,
            linger_s=settings.linger_timeout_s,
        )


class BoundedProtocol(HttpToolsProtocol):
    """One connection. What breaks a bound is answered with a problem where an answer can be sent, and hung up on."""

    def __init__(self, bounds: Bounds, **given: Any) -> None:
        """Make the protocol of a connection; ``given`` is what uvicorn passes."""
        super().__init__(**given)
        self._bounds = bounds
        self._in_head = True
        self._raw_bytes = 0  # that came, of a head that is not complete
        self._head_bytes = 0  # that the parser has told of
        self._refusal = (400, "request: wanted HTTP/1.1, its Content-Length one number; it cannot be read")
        self._head_due = Alarm(self.loop, bounds.head_s, self._late)
        self._rest_due = Alarm(self.loop, bounds.body_s, self._hang_up)
        self._reading_due = Alarm(self.loop, bounds.unread_s, self._give_up)
        self._request_due = Alarm(self.loop, self.timeout_keep_alive, self.timeout_keep_alive_handler)
        self._lingering: Lingering | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin; the head of the first request is due."""
        lingering = Lingering(transport, self._comes, self._bounds.linger_bytes, self._bounds.linger_s)
        self._lingering = lingering
        super().connection_made(cast(asyncio.Transport, lingering))
        if len(self.connections) > self._bounds.connections:
            self._refuse(503, f"connections: at most {self._bounds.connections} are served at once")
        else:
            self._head_due.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """End; no timer outlives the connection."""
        for alarm in (self._head_due, self._rest_due, self._reading_due, self._request_due):
            alarm.end()
        if self._lingering:
            self._lingering.lost()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came, unless it is a head that never ends: the parser tells only of headers that do."""
        if self._lingering and self._lingering.lingers:
            self._lingering.drop(data)
            return
        if self._in_head:
            self._raw_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if not self._in_head:
            self._bound_body()
        elif self._raw_bytes:
            self._bound_head()

    def on_message_begin(self) -> None:
        """Begin a head."""
        super().on_message_begin()
        self._head_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Count a part of the request line."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header."""
        self._count(len(name) + len(value) + len(b": \r\n"))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """End a head; the request begins, or waits for those before it."""
        self._in_head = False
        self._raw_bytes = 0
        self._head_due.put_off()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Pass a part of a body on as it is where no other waits; uvicorn would copy it twice on its way."""
        if self.cycle.body or self.cycle.response_complete or self.parser.should_upgrade():
            super().on_body(body)
            return
        self.cycle.body = body  # type: ignore[assignment]  # uvicorn makes bytes of it, which it is already
        self.cycle.message_event.set()

    def on_message_complete(self) -> None:
        """End a request; what comes next is the head of another."""
        self._in_head = True
        self._rest_due.put_off()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """End an answer; what is missing of the request's body is not wanted, and must not take for ever."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._request_due.set()
        if not self._in_head:
            self._rest_due.set()

    def pause_writing(self) -> None:
        """Hold the answer; its client has a bounded time to read on."""
        super().pause_writing()
        self._reading_due.set()

    def resume_writing(self) -> None:
        """Go on with the answer."""
        super().resume_writing()
        self._reading_due.put_off()

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser could not take, or what a callback of it found out of bounds."""
        self._refuse(*self._refusal)

    def last_answer(self) -> None:
        """Let the answer that is under way, if one is, be the connection's last."""
        if self._answering:
            self.cycle.keep_alive = False

    @property
    def _answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def _comes(self) -> bool:
        """Tell whether more of a request that has begun is to come."""
        return not self._in_head or self._raw_bytes > 0

    def _count(self, nbytes: int) -> None:
        """Count bytes of a head; an exception is how a callback stops the parser, which then has it refused."""
        self._head_bytes += nbytes
        if self._head_bytes > self._bounds.head_bytes:
            self._refusal = self._too_large()
            raise ValueError(self._refusal[1])

    def _bound_head(self) -> None:
        """Refuse a head that is too large, and start the clock of one whose end has not come yet."""
        if self._raw_bytes > self._bounds.head_bytes:
            self._refuse(*self._too_large())
        elif not self._head_due.is_set:
            self._head_due.set()

    def _bound_body(self) -> None:
        """Read on when what came of a body has been taken; of one that has come to its end there is no more to read."""
        if self._answering and len(self.cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()

    def _too_large(self) -> tuple[int, str]:
        return 431, f"request line and headers: at most {self._bounds.head_bytes} bytes are read"

    def _unset_keepalive_if_required(self) -> None:
        """Wait for no request: one begins, or uvicorn ends the connection."""
        self._request_due.put_off()

    def _hang_up(self) -> None:
        """Hang up on a body that was answered, and did not come to its end."""
        self.transport.close()

    def _give_up(self) -> None:
        """Hang up on a client that does not read, with what it has not read."""
        self.transport.abort()

    def _late(self) -> None:
        """Hang up on a head that did not come, with a word if it had begun."""
        if self.transport.is_closing() or not self._in_head:
            return
        if self._raw_bytes:
            self._refuse(408, f"request line and headers: not complete in {self._bounds.head_s:g} s")
        else:
            self.transport.close()

    def _refuse(self, status: int, detail: str) -> None:
        """Answer with a problem and hang up; without a word where an answer to a request before is under way."""
        if not self._answering:
            request_id = uuid.uuid4().hex
            body = make_problem(status, _CODES[status], HTTPStatus(status).phrase, detail, "", request_id)
            content = body.model_dump_json().encode()
            head = (
                f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(content)}\r\n"
                f"x-request-id: {request_id}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(STATUS_LINE[status] + head.encode() + content)
        self.transport.close()
