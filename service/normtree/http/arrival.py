"""A body of tensors whose header has been read: what it holds is known, its data is still on its way."""

from collections.abc import Sequence
from typing import NamedTuple

from starlette.requests import Request

from normtree.errors import UnsupportedMediaType
from normtree.formats import npy, safetensors
from normtree.formats.contents import Contents, Prefix
from normtree.http import media
from normtree.http.head import head_of
from normtree.http.off_loop import SHORT_BYTES, off_loop
from normtree.http.receive import Body, fill, wrong_length
from normtree.settings import Settings


class Arrival(NamedTuple):
    """A body whose header has been read.

    Attributes:
        media_type: what it was declared as.
        contents: what its header says, in accord with its length.
        first: bytes of the data that came with the header.
        rest: where the others will come from.
    """

    media_type: str
    contents: Contents
    first: bytes | memoryview
    rest: Body

    async def read_into(self, places: Sequence[memoryview]) -> None:
        """Read the data into buffers, one a tensor, as long as they are; raises what `Body.chunk` raises."""
        await fill(places, self.first, self.rest)


async def open_arrival(request: Request, settings: Settings) -> Arrival:
    """Check a request's headers, then read the header of its body and no more than what came with it.

    Raises:
        UnsupportedMediaType: it is not declared as, or is not, in a format we read.
        LengthRequired: no Content-Length.
        BodyTooLarge: a length over the limit.
        MalformedBody: a broken header, or one that announces another length than the body has.
        InvalidTensor: a dtype, shape or size that is not taken.
        BodyTimeout: the header did not arrive in time.
    """
    head = head_of(request.scope)
    media_type = media.content_type(head)
    body = Body.open(head, request.receive, settings)
    prefix: Prefix = await body.chunk()
    while (contents := await _parse_off_loop(prefix, media_type, settings)) is None:
        prefix = bytearray(prefix) if isinstance(prefix, bytes) else prefix
        prefix += await body.chunk()
    wanted = contents.data_offset + contents.data_bytes
    if body.length != wanted:
        raise wrong_length(f"what its {media.format_of(media_type)} header announces", wanted, body.length)
    return Arrival(media_type, contents, memoryview(prefix)[contents.data_offset :], body)


async def _parse_off_loop(prefix: Prefix, media_type: str, settings: Settings) -> Contents | None:
    """Parse what has arrived of the header; on a thread where there may be much of it."""
    few = len(prefix) <= SHORT_BYTES or media_type not in media.SAFETENSORS
    return await off_loop(lambda: _parse(prefix, media_type, settings), short=few)


def _parse(prefix: Prefix, media_type: str, settings: Settings) -> Contents | None:
    """Parse what has arrived of the header; None where more is needed."""
    if media_type in media.SAFETENSORS:
        return safetensors.read_header(prefix, elements_limit=settings.elements_limit)
    if media_type == media.BYTES and not npy.begins(prefix):
        raise UnsupportedMediaType(
            f"Content-Type: {media.BYTES} is read where the body is .npy, which this one is not",
            pointer="Content-Type",
            limit=", ".join(media.READABLE),
            got=media_type,
        )
    return npy.read_header(prefix, rank_limit=settings.rank_limit, elements_limit=settings.elements_limit)
