"""A request's body on its way in: its length checked before it is read, its data put where it will be used."""

import asyncio
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Receive

from normtree.errors import (
    BodyTimeout,
    BodyTooLarge,
    LengthRequired,
    MalformedBody,
    UnsupportedMediaType,
)
from normtree.http import media
from normtree.http.bodies import npy
from normtree.settings import Settings

_LENGTH_DIGITS = 19


class Body:
    """The bytes of one request as they arrive. They are neither joined nor kept.

    Attributes:
        length: the declared length, in bytes.
        received: bytes that have arrived.
    """

    def __init__(self, receive: Receive, length: int, timeout_s: float) -> None:
        """Start the clock of a body of ``length`` bytes, which must be here after ``timeout_s`` seconds."""
        self.length = length
        self.received = 0
        self._receive = receive
        self._timeout_s = timeout_s
        self._deadline = asyncio.get_running_loop().time() + timeout_s

    async def chunk(self) -> bytes:
        """Return the next bytes, at least one.

        Raises:
            BodyTimeout: the body's time is up.
            MalformedBody: the body ended, or the client went away, before its declared length; or it is longer;
                or all of it was returned already.
        """
        if self.received == self.length:
            detail = f"body: truncated: its {self.length} bytes end before the data begins"
            raise MalformedBody(detail, pointer="body", got=self.length)
        while True:
            try:
                async with asyncio.timeout_at(self._deadline):
                    message = await self._receive()
            except TimeoutError:
                raise self._late() from None
            part: bytes = message.get("body", b"")
            self.received += len(part)
            if self.received > self.length:
                raise _wrong_length("the declared Content-Length", self.length, self.received)
            if part:
                return part
            if not message.get("more_body", False):  # the end, or a disconnect
                raise _wrong_length("the declared Content-Length", self.length, self.received)

    async def read_into(self, buffer: memoryview, first: bytes) -> None:
        """Fill a buffer with the rest of the body.

        Args:
            buffer: writable, as long as what is left of the body.
            first: bytes of it that arrived already.

        Raises:
            BodyTimeout: as ``chunk``.
            MalformedBody: as ``chunk``.
        """
        position = 0
        part = first
        while True:
            buffer[position : position + len(part)] = part
            position += len(part)
            if position == len(buffer):
                return
            part = await self.chunk()

    def _late(self) -> BodyTimeout:
        """Return the error for a body that is not here in time."""
        detail = f"body: {self.received} of {self.length} bytes arrived in {self._timeout_s:g} s"
        return BodyTimeout(detail, pointer="body", limit=self._timeout_s, got=self.received)


@dataclass(frozen=True)
class NpyBody:
    """A ``.npy`` body whose header has been read.

    Attributes:
        header: what it says, in accord with the body's length.
        first: bytes of the data that came with it.
        rest: where the others will come from.
    """

    header: npy.NpyHeader
    first: bytes
    rest: Body

    async def read_into(self, buffer: memoryview) -> None:
        """Read all the data into a buffer of ``header.data_bytes``; raises what `Body.chunk` raises."""
        await self.rest.read_into(buffer, self.first)


async def open_npy(request: Request, settings: Settings) -> NpyBody:
    """Check a request's headers, then read the header of its ``.npy`` body and no more than what came with it.

    Raises:
        UnsupportedMediaType: it is not declared as, or is not, ``.npy``.
        LengthRequired: no Content-Length.
        BodyTooLarge: a Content-Length over the limit.
        MalformedBody: a broken header, or one that announces another length than the body has.
        InvalidTensor: a dtype, shape or size that is not taken.
        BodyTimeout: the header did not arrive in time.
    """
    media_type = media.content_type(request.headers)
    body = Body(request.receive, _declared_length(request.headers, settings), settings.body_timeout_s)
    prefix = await body.chunk()
    while (header := _parse(prefix, media_type, settings)) is None:
        prefix += await body.chunk()
    wanted = header.data_offset + header.data_bytes
    if body.length != wanted:
        raise _wrong_length("what its .npy header announces", wanted, body.length)
    return NpyBody(header, prefix[header.data_offset :], body)


def _declared_length(headers: Headers, settings: Settings) -> int:
    """Return the body's length in bytes, known and within the limit before any of it is read."""
    text = headers.get("content-length")
    if text is None:
        raise LengthRequired("Content-Length: required, got none", pointer="Content-Length")
    if not (text.isascii() and text.isdigit() and len(text) <= _LENGTH_DIGITS):
        raise MalformedBody("Content-Length: wanted a number of bytes", pointer="Content-Length", got=text)
    length = int(text)
    limit = settings.body_limit_bytes
    if length > limit:
        detail = f"Content-Length: at most {limit} bytes are accepted, got {length}"
        raise BodyTooLarge(detail, pointer="Content-Length", limit=limit, got=length)
    return length


def _parse(prefix: bytes, media_type: str, settings: Settings) -> npy.NpyHeader | None:
    """Parse what has arrived of the header; None where more is needed."""
    if media_type == media.BYTES and not npy.begins(prefix):
        raise UnsupportedMediaType(
            f"Content-Type: {media.BYTES} is read where the body is .npy, which this one is not",
            pointer="Content-Type",
            limit=", ".join(media.READABLE),
            got=media_type,
        )
    return npy.read_header(prefix, rank_limit=settings.rank_limit, elements_limit=settings.elements_limit)


def _wrong_length(by: str, wanted: int, got: int) -> MalformedBody:
    """Return the error for a body that is shorter or longer than it should be."""
    kind = "truncated" if got < wanted else "too long"
    detail = f"body: {kind}: wanted {wanted} bytes by {by}, got {got}"
    return MalformedBody(detail, pointer="body", limit=wanted, got=got)
