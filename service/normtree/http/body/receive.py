"""A request's body on its way in: its length checked before it is read, its data put where it will be used."""

from collections.abc import Sequence
from typing import Protocol

from starlette.requests import Request
from starlette.types import Receive

from normtree.errors import BodyTimeout, BodyTooLarge, LengthRequired, MalformedBody
from normtree.http.body.body_limit import BodyLimit
from normtree.http.body.transfer_pace import Course, TransferPace
from normtree.http.head.head import Head, head_of
from normtree.http.threads.deadline import until
from normtree.settings import Settings


class Body:
    """The bytes of one request as they arrive. They are neither joined nor kept.

    Attributes:
        length: the declared length, in bytes.
        received: bytes that have arrived.
    """

    def __init__(self, receive: Receive, length: int, pace: TransferPace) -> None:
        """Start the clock of a body of ``length`` bytes, which must keep to a pace."""
        self.length = length
        self.received = 0
        self._receive = receive
        self._pace, self._course = pace, Course(length, pace)

    @classmethod
    def open(cls, head: Head, receive: Receive, limit: BodyLimit, pace: TransferPace) -> "Body":
        """Check the length that is declared, before any of the body is read.

        Raises:
            LengthRequired: no Content-Length.
            MalformedBody: a Content-Length that is no number.
            BodyTooLarge: a Content-Length over the limit.
        """
        return cls(receive, _declared_length(head, limit), pace)

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
                message = await until(self._course.due(self.received), self._receive())
            except TimeoutError:
                raise self._late() from None
            part: bytes = message.get("body", b"")
            self.received += len(part)
            if self.received > self.length:
                raise wrong_length("the declared Content-Length", self.length, self.received)
            if part:
                return part
            if not message.get("more_body", False):  # the end, or a disconnect
                raise wrong_length("the declared Content-Length", self.length, self.received)

    def put_off(self, seconds: float) -> None:
        """Give it some more time, for which others are to blame."""
        self._course.put_off(seconds)

    def _late(self) -> BodyTimeout:
        """Return the error for a body that is not here in time."""
        took_s, timeout_s = self._course.allowed_s(self.received), self._pace.timeout_s
        which = f"{took_s:g} s" if took_s == timeout_s else f"{took_s:g} of the {timeout_s:g} s that it may take"
        detail = f"body: {self.received} of {self.length} bytes arrived in {which}"
        return BodyTimeout(detail, pointer="body", limit=timeout_s, got=self.received)


async def read_whole(request: Request, settings: Settings, limit_bytes: int) -> bytearray:
    """Read a small body whole.

    Args:
        request: whose body was not read.
        settings: how long it may take.
        limit_bytes: most bytes of it.

    Raises:
        LengthRequired, BodyTooLarge: before any of it is read.
        BodyTimeout, MalformedBody: as `Body.chunk`.
    """
    limit, found = BodyLimit.small(limit_bytes), bytearray()
    body = Body.open(head_of(request.scope), request.receive, limit, TransferPace.of(settings))
    while body.received < body.length:
        found += await body.chunk()
    return found


class Chunks(Protocol):
    """Where bytes come from."""

    async def chunk(self) -> bytes:
        """Return the next bytes, at least one."""
        ...


async def fill(places: Sequence[memoryview], first: bytes | memoryview, rest: Chunks) -> memoryview:
    """Fill buffers, one after the other, with bytes as they arrive; raises what ``rest`` raises.

    Args:
        places: writable.
        first: bytes that arrived already.
        rest: where the others come from; no more is taken from it than is needed.

    Returns:
        What was left of the last bytes taken.
    """
    part = memoryview(first)
    for place in places:
        position = 0
        while position < len(place):
            part = part or memoryview(await rest.chunk())
            taken = part[: len(place) - position]
            place[position : position + len(taken)] = taken
            position += len(taken)
            part = part[len(taken) :]
    return part


def wrong_length(by: str, wanted: int, got: int) -> MalformedBody:
    """Return the error for a body that is shorter or longer than it should be."""
    kind = "truncated" if got < wanted else "too long"
    detail = f"body: {kind}: wanted {wanted} bytes by {by}, got {got}"
    return MalformedBody(detail, pointer="body", limit=wanted, got=got)


def _declared_length(head: Head, limit: BodyLimit) -> int:
    """Return the body's length in bytes, known and within the limit before any of it is read."""
    if not head.declares_length:
        raise LengthRequired("Content-Length: required, got none", pointer="Content-Length")
    length = head.length
    if length is None:
        got = head["content-length"]
        raise MalformedBody("Content-Length: wanted a number of bytes", pointer="Content-Length", got=got)
    if length > limit.nbytes:
        detail = f"Content-Length: at most {limit.nbytes} bytes are accepted ({limit.why}), got {length}"
        raise BodyTooLarge(detail, pointer="Content-Length", limit=limit.nbytes, got=length)
    return length
