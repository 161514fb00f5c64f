"""A connection: uvicorn's fast protocol, with bounds on what a client may make it hold or wait for.

uvicorn bounds neither the size of a request's head nor the time it takes, nor a connection that says nothing, nor a
client that does not read its answer, or goes on sending after it. Each would let a few bytes of a stranger hold memory,
a descriptor or a segment. Nor does it answer who has finished sending, who wishes for another protocol, or what came
whole before bytes that cannot be read.
"""

import asyncio
import uuid
from http import HTTPStatus
from typing import Any, cast

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from normtree.http.connection.alarm import Alarm
from normtree.http.connection.bounds import Bounds
from normtree.http.connection.connection_limit import Crowd
from normtree.http.connection.flow_control import Flow
from normtree.http.connection.lingering_close import Lingering
from normtree.http.head.head import CUT, FAULT, HANG_UP, host_fault, read_head, without_upgrade
from normtree.http.problems import MEDIA_TYPE, make_problem

_CODES = {
    400: "malformed-request",
    408: "head-timeout",
    431: "head-too-large",
    501: "not-implemented",
    503: "too-many-connections",
}
_CONNECT = b"CONNECT"
_SLICE_BYTES, _PIPELINED = 2**12, 16
_ALWAYS = (b"/v2/health/live", b"/v2/health/ready", b"/metrics")
_BLANK = b" \t"
# A client that has finished sending and one that has left look alike, until something is written to them. Any client of
# HTTP/1.1 takes this (RFC 9110, 15.2); it is sent to those only whose answer takes its time.
_STILL_THERE = b"HTTP/1.1 100 Continue\r\n\r\n"


class BoundedProtocol(HttpToolsProtocol):
    """One connection. What breaks a bound is answered with a problem where an answer can be sent, and hung up on."""

    def __init__(self, bounds: Bounds, crowd: "Crowd[BoundedProtocol]", **given: Any) -> None:
        """Make the protocol of a connection, one of a crowd; ``given`` is what uvicorn passes."""
        super().__init__(**given)
        self._bounds = bounds
        self._crowd = crowd
        self._spare = False  # may ask for what is always answered, and nothing else
        self._in_head = True
        self._raw_bytes = 0  # that came since a head was complete, or a part of a body was
        self._head_bytes = 0  # that the parser has told of
        self._body_left = 0  # bytes that a body still wants, where its length was declared
        self._later = memoryview(b"")  # what came behind more requests than are begun at once
        self._refusal: tuple[int, str] | None = None  # of what a callback found out of bounds
        self._owed: tuple[int, str] | None = None  # a refusal that waits for the answers before it
        self._ended = False  # no byte that comes is looked at any more
        self._heard = False  # the client has finished sending
        self._head_due = Alarm(self.loop, bounds.head_s, self._late)
        self._rest_due = Alarm(self.loop, bounds.body_s, self._hang_up)
        self._reading_due = Alarm(self.loop, bounds.unread_s, self._give_up)
        self._request_due = Alarm(self.loop, self.timeout_keep_alive, self.timeout_keep_alive_handler)
        self._presence_due = Alarm(self.loop, bounds.presence_s, self._look_whether_there)
        self._running: RequestResponseCycle | None = None
        self._lingering: Lingering | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin; the head of the first request is due."""
        lingering = Lingering(transport, self._comes, self._bounds.linger_bytes, self._bounds.linger_s)
        self._lingering = lingering
        super().connection_made(cast(asyncio.Transport, lingering))
        self._flow = self.flow = Flow(self.transport)
        count = len(self.connections)
        self._spare = not self._crowd.make_room(count)
        if self._spare and self._crowd.is_full(count):
            self._refuse(*self._too_many())
        else:
            self._crowd.rest(self)
            self._head_due.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """End; no timer outlives the connection."""
        self._crowd.stir(self)
        for alarm in (self._head_due, self._rest_due, self._reading_due, self._request_due, self._presence_due):
            alarm.end()
        if self._lingering:
            self._lingering.lost()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came, unless it is a head that never ends: the parser tells only of headers that do."""
        if self._lingering and self._lingering.lingers:
            self._lingering.drop(data)
            return
        if self._ended:
            return
        self._request_due.put_off()
        self._take(memoryview(data))

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn's tells nothing, and so hangs up
        """Answer who has finished sending; hang up where no answer is owed."""
        if self.transport.is_closing():
            return False
        self._heard = True
        if not self._in_head:
            self.cycle.scope["state"][CUT] = True
            self._spoil("body: truncated: the connection ended before it")
        elif self._raw_bytes:
            self._refuse(400, "request: it ends before its head does")
        if not self._answering:
            return False
        if not self._owed:
            self.cycle.keep_alive = False
        self._presence_due.set()
        return True

    def on_message_begin(self) -> None:
        """Begin a head."""
        super().on_message_begin()
        self._head_bytes = 0
        self._raw_bytes = max(1, self._raw_bytes)

    def on_url(self, url: bytes) -> None:
        """Count a part of the request line."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header. What follows a body is none: nobody has said what it would mean here (RFC 9110, 6.5.1)."""
        self._count(len(name) + len(value) + len(b": \r\n"))
        if self._in_head:
            super().on_header(name, value.strip(_BLANK))

    def on_headers_complete(self) -> None:
        """End a head; the request begins, or waits for those before it, or its head is read again by `_parse`."""
        if self.parser.should_upgrade():
            if self.parser.get_method() == _CONNECT:
                self._stop(501, "method: CONNECT is for proxies, which this service is not")
            return
        if self._spare and self.url.partition(b"?")[0] not in _ALWAYS:
            self._stop(*self._too_many())
        self._in_head = False
        self._raw_bytes = 0
        head = self.scope["state"]["head"] = read_head(self.headers)
        self._body_left = head.length or 0
        self._head_due.put_off()
        self._crowd.stir(self)
        self.scope["state"][HANG_UP] = self._give_up
        if fault := host_fault(self.headers, self.parser.get_http_version()):
            self.scope["state"][FAULT] = fault
        super().on_headers_complete()
        if self._spare:
            self.cycle.keep_alive = False
        if self.pipeline:
            self._flow.hold()

    def on_body(self, body: bytes) -> None:
        """Pass a part of a body on as it is where no other waits; uvicorn would copy it twice on its way."""
        self._raw_bytes = 0
        self._body_left = max(0, self._body_left - len(body))
        if self.cycle.body or self.cycle.response_complete:
            super().on_body(body)
            return
        self.cycle.body = body  # type: ignore[assignment]  # uvicorn makes bytes of it, which it is already
        self.cycle.message_event.set()

    def on_message_complete(self) -> None:
        """End a request; what comes next is the head of another."""
        if self.parser.should_upgrade():
            return
        self._in_head = True
        self._raw_bytes = self._body_left = 0
        self._rest_due.put_off()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """End an answer; what is missing of the request's body is not wanted, and must not take for ever."""
        self.server_state.total_requests += 1
        if not self.pipeline or self.transport.is_closing():
            self._crowd.rest(self)
        if self.transport.is_closing():
            return
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._owed:
            self._refuse(*self._owed)
            return
        else:
            self._request_due.set()
        if not self.pipeline and self._later:
            self.loop.call_soon(self._go_on)
        elif not (self.pipeline or self._ended):
            self._flow.release()  # for the body of the last, or for the next
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

    def give_way(self) -> None:
        """End at once, for another: nobody waits for an answer here."""
        self.transport.abort()

    def last_answer(self) -> None:
        """Let the answer that is under way, if one is, be the connection's last."""
        if self._answering:
            self.cycle.keep_alive = False

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """Begin a request."""
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    @property
    def _answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def _comes(self) -> bool:
        """Tell whether more of a request that has begun is to come."""
        due = self._ended or not self._in_head or self._raw_bytes > 0 or len(self._later) > 0
        return due and not self._heard

    def _take(self, data: memoryview) -> None:
        """Parse what came, a slice at a time; of many requests at once some, and the rest when these are answered."""
        while data and not (self._ended or self.transport.is_closing()):
            if len(self.pipeline) >= _PIPELINED:
                self._later = data
                return
            part, data = data[: self._body_left or _SLICE_BYTES], data[self._body_left or _SLICE_BYTES :]
            self._raw_bytes += len(part)
            try:
                self._parse(part)
            except httptools.HttpParserError as error:
                self._fail(*(self._refusal or (400, f"request: it cannot be read: {error}")))
        if not (self._ended or self.transport.is_closing()):
            self._bound()

    def _go_on(self) -> None:
        """Take what waited for the answers before it, then read on."""
        if self._ended or self.transport.is_closing():
            return
        later, self._later = self._later, memoryview(b"")
        self._take(later)
        if not (self.pipeline or self._ended):
            self._flow.release()

    def _parse(self, data: memoryview) -> None:
        """Parse bytes; a request that wishes for another protocol is read as if it did not.

        The parser ends at the head of such a request, and would take the body for the next one. So another is given
        the same head without the wish, and then what follows it.
        """
        rest = data
        while True:
            try:
                self.parser.feed_data(rest)
                return
            except httptools.HttpParserUpgrade as wish:
                rest = rest[wish.args[0] :]
                parser = httptools.HttpRequestParser(self)
                parser.set_dangerous_leniencies(lenient_data_after_close=True)
                version = self.parser.get_http_version()
                head = without_upgrade(self.parser.get_method(), self.url, version, self.headers)
                self.parser = parser
                parser.feed_data(head)

    def _fail(self, status: int, detail: str) -> None:
        """Take nothing more of a client whose bytes cannot be told apart any more."""
        if self._in_head:
            self._refuse(status, detail)
        else:
            self._end()
            self._spoil(detail)

    def _end(self) -> None:
        """Look at no byte that comes any more."""
        self._ended = True
        self._head_due.put_off()
        self._flow.hold()

    def _spoil(self, detail: str) -> None:
        """Let a request whose body broke off be answered with what is wrong with it, unless it is answered already."""
        self.cycle.keep_alive = False
        if self.cycle.response_complete:
            self.transport.close()
            return
        self.cycle.scope["state"].setdefault(FAULT, detail)
        self.cycle.more_body = False
        self.cycle.message_event.set()

    def _stop(self, status: int, detail: str) -> None:
        """Stop the parser, which a callback does by an exception, and have what it reads refused."""
        self._refusal = (status, detail)
        raise ValueError(detail)

    def _count(self, nbytes: int) -> None:
        """Count bytes of a head, or of what follows a body."""
        self._head_bytes += nbytes
        if self._head_bytes > self._bounds.head_bytes:
            self._stop(*self._too_large())

    def _bound(self) -> None:
        """Refuse what is too large of a head or between parts of a body; start the clock of a head that began.

        A body is read on when what came of it has been taken; of one that has come to its end there is no more to read.
        """
        if self._raw_bytes > self._bounds.head_bytes:
            self._fail(*self._too_large())
        elif self._in_head and self._raw_bytes and not self._head_due.is_set:
            self._head_due.set()
        elif not self._in_head and self._answering and len(self.cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()

    def _too_many(self) -> tuple[int, str]:
        return 503, f"connections: at most {self._crowd.limit} are served at once"

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
        elif not self._answering:
            self.transport.close()

    def _look_whether_there(self) -> None:
        """Write to a client that has finished sending, so that one that has left is known to have."""
        if self._running and not self._running.response_started and self._running.scope["http_version"] != "1.0":
            self.transport.write(_STILL_THERE)
            self._presence_due.set()

    def _refuse(self, status: int, detail: str) -> None:
        """Answer with a problem and hang up, once the requests before are answered."""
        self._end()
        if self._answering:
            self._owed = (status, detail)
        else:
            request_id = uuid.uuid4().hex
            body = make_problem(status, _CODES[status], HTTPStatus(status).phrase, detail, "", request_id)
            content = body.model_dump_json().encode()
            head = (
                f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(content)}\r\n"
                f"x-request-id: {request_id}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(STATUS_LINE[status] + head.encode() + content)
            self.transport.close()
