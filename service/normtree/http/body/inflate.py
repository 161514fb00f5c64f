"""A compressed body on its way in: inflated piece by piece, never more than was asked for."""

import asyncio
import zlib

from normtree.errors import BodyTooLarge, MalformedBody, UnsupportedMediaType
from normtree.http.body.receive import Body

CODINGS = ("identity", "gzip", "deflate")
_PIECE_BYTES = 2**20
_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32  # told by the first bytes; what HTTP calls deflate is zlib's format
_TEXT_SHOWN = 80


class Inflated:
    """A body as it was before it was compressed; a few bytes that stand for many are read no further than they must.

    Attributes:
        coding: ``gzip`` or ``deflate``.
    """

    def __init__(self, body: Body, coding: str) -> None:
        """Wrap a body of which nothing has been read.

        Raises:
            UnsupportedMediaType: a coding that is not read.
        """
        if coding not in CODINGS[1:]:
            shown = coding[:_TEXT_SHOWN]
            raise UnsupportedMediaType(
                f"Content-Encoding: wanted one of {', '.join(CODINGS)}, got {shown}",
                pointer="Content-Encoding",
                limit=", ".join(CODINGS),
                got=shown,
            )
        self.coding = coding
        self._body = body
        self._inflater = zlib.decompressobj(_GZIP_OR_ZLIB)

    async def chunk(self) -> bytes:
        """Return the next bytes, at least one.

        Raises:
            MalformedBody: they cannot be inflated, or the body ends before; or it is as `Body.chunk` says.
            BodyTimeout: as `Body.chunk`.
        """
        part = await self._next()
        if not part:
            raise MalformedBody(f"body: truncated: its {self.coding} data ends too early", pointer="body")
        return part

    async def read_all(self, limit: int) -> bytes:
        """Return all that is left.

        Raises:
            BodyTooLarge: it is more than ``limit`` bytes.
            MalformedBody, BodyTimeout: as ``chunk``.
        """
        found = bytearray()
        while part := await self._next():
            found += part
            if len(found) > limit:
                raise BodyTooLarge(f"body: at most {limit} inflated bytes are accepted", pointer="body", limit=limit)
        return bytes(found)

    async def end(self) -> None:
        """Make sure that nothing is left.

        Raises:
            MalformedBody: there is more; or as ``chunk``.
            BodyTimeout: as ``chunk``.
        """
        if await self._next():
            raise MalformedBody("body: too long: more bytes than the request announces", pointer="body")

    def put_off(self, seconds: float) -> None:
        """Give the body some more time, for which others are to blame."""
        self._body.put_off(seconds)

    async def _next(self) -> bytes:
        """Return some more bytes; none at the end."""
        while True:
            part = await self._inflated(self._inflater.unconsumed_tail)
            if part:
                return part
            if self._inflater.eof or self._body.received == self._body.length:
                return self._end()
            part = await self._inflated(await self._body.chunk())
            if part:
                return part

    async def _inflated(self, data: bytes) -> bytes:
        """Inflate on a thread: others' bytes may stand for a thousand times as many, and the event loop has no time."""
        return await asyncio.to_thread(self._inflate, data) if data else self._inflate(data)

    def _inflate(self, data: bytes) -> bytes:
        try:
            return self._inflater.decompress(data, _PIECE_BYTES)
        except zlib.error:
            raise MalformedBody(f"body: it is not {self.coding}", pointer="body") from None

    def _end(self) -> bytes:
        """Check that the data is complete, and that nothing comes after it."""
        if not self._inflater.eof:
            raise MalformedBody(f"body: truncated: its {self.coding} data ends too early", pointer="body")
        if self._inflater.unused_data or self._body.received < self._body.length:
            raise MalformedBody(f"body: too long: it goes on after its {self.coding} data", pointer="body")
        return b""
