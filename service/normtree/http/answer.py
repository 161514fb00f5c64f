"""A tensor on its way out: header, data straight from shared memory, and the segment given back at the end."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

_SLICE_BYTES = 2**20


class TensorAnswer(Response):
    """Sends a header and a tensor's data without copying the data into one body.

    Args:
        header: bytes before the data.
        data: the data; it stays valid until ``held`` is closed.
        held: what is to be released when the data has been sent, or cannot be: a disconnect, a cancellation.
        retire: called before that if the data cannot be sent; it keeps the data's segment from being used again.
        media_type: of the answer.
        headers: more headers.
    """

    def __init__(
        self,
        header: bytes,
        data: memoryview,
        held: ExitStack,
        retire: Callable[[], None],
        *,
        media_type: str,
        headers: Mapping[str, str],
    ) -> None:
        length = {"Content-Length": str(len(header) + len(data))}
        super().__init__(status_code=200, headers={**headers, **length}, media_type=media_type)
        self._header = header
        self._data = data
        self._held = held
        self._retire = retire

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it all, then release."""
        with self._held:
            try:
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                await self._send_data(send)
            except BaseException:
                # The server flushes what it holds before it hangs up; that must not turn into another's data.
                self._retire()
                raise

    async def _send_data(self, send: Send) -> None:
        """Send the data by slices, waiting for the client between them.

        The server may still hold what it was sent last: uvicorn takes a message when less than 64 KiB are left of
        those before. So the last slice is sent as a copy, and an empty message after it: when that is taken, what
        is left to send is at most a part of the copy, and the segment is free. Copying every slice would be
        simpler, and makes a 128 MiB answer a fifth slower.
        """
        await self._send_part(send, self._header)
        last = max(0, len(self._data) - _SLICE_BYTES)
        for start in range(0, last, _SLICE_BYTES):
            await self._send_part(send, self._data[start : min(start + _SLICE_BYTES, last)])
        await self._send_part(send, bytes(self._data[last:]))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    @staticmethod
    async def _send_part(send: Send, part: bytes | memoryview) -> None:
        """Send one part of the body that is not the last."""
        await send({"type": "http.response.body", "body": part, "more_body": True})
