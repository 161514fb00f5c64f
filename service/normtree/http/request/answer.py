"""Tensors on their way out: a header, data straight from shared memory, and the segments given back at the end."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from normtree.http.body.transfer_pace import Course, TransferPace
from normtree.http.head.head import HANG_UP
from normtree.http.request.format import Payload
from normtree.http.threads.deadline import until

_SLICE_BYTES = 2**20
_LEAST_VIEW_BYTES = 2**16


class TensorAnswer(Response):
    """Sends a payload without copying it into one body.

    Args:
        payload: what to send; its data stays valid until ``held`` is closed.
        held: what is to be released when the data has been sent, or cannot be: a disconnect, a cancellation.
        retire: called before that if the data cannot be sent; it keeps the segments from being used again.
        pace: in what time it must be read.
        media_type: of the answer.
        headers: more headers; the length is added.
    """

    def __init__(
        self,
        payload: Payload,
        held: ExitStack,
        retire: Callable[[], None],
        pace: TransferPace,
        *,
        media_type: str,
        headers: dict[str, str],
    ) -> None:
        headers["Content-Length"] = str(payload.nbytes)
        super().__init__(status_code=200, headers=headers, media_type=media_type)
        self._payload = payload
        self._held = held
        self._retire = retire
        self._pace = pace

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it all, then release."""
        with self._held:
            try:
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                await self._send_data(send)
            except BaseException as error:
                # The server flushes what it holds before it hangs up; that must not turn into another's data.
                self._retire()
                if not isinstance(error, TimeoutError) or HANG_UP not in scope["state"]:
                    raise
                scope["state"][HANG_UP]()
                while (await receive())["type"] != "http.disconnect":
                    pass

    async def _send_data(self, send: Send) -> None:
        """Send the data by slices, waiting for the client between them.

        The server may still hold what it was sent last: uvicorn takes a message when less than 64 KiB are left of
        those before. So the last slice is sent as a copy, and an empty message after it: when that is taken, what
        is left to send is at most a part of the copy, and the segment is free. Copying every slice would be
        simpler, and makes a 128 MiB answer a fifth slower. Where one slice is all there is, it goes with the header.

        Raises:
            TimeoutError: the client does not keep to the pace.
        """
        payload = self._payload
        if payload.nbytes - len(payload.header) <= _SLICE_BYTES:
            await send({"type": "http.response.body", "body": b"".join((payload.header, *payload.parts))})
            return
        course, sent = Course(payload.nbytes, self._pace), 0
        for message in _messages(payload):
            await until(course.due(sent), send({"type": "http.response.body", "body": message, "more_body": True}))
            sent += len(message)
        await until(course.due(sent), send({"type": "http.response.body", "body": b"", "more_body": False}))


def _messages(payload: Payload) -> Iterator[bytes | memoryview]:
    """Cut a payload into slices: views of large parts, small parts joined, and at the end a copy of the last."""
    left = sum(len(part) for part in payload.parts)
    joined = bytearray(payload.header)
    for whole in payload.parts:
        part = whole
        while part:
            spared = left - _SLICE_BYTES  # bytes that need not be copied
            size = min(len(part), spared if spared > 0 else left, _SLICE_BYTES)
            if spared > 0 and size >= _LEAST_VIEW_BYTES:
                if joined:
                    yield bytes(joined)
                    joined = bytearray()
                yield part[:size]
            else:
                joined += part[:size]
                if spared > 0 and len(joined) >= _SLICE_BYTES:
                    yield bytes(joined)
                    joined = bytearray()
            part = part[size:]
            left -= size
    yield bytes(joined)
