"""What a format makes of a request, and how it answers: all that the pipeline knows of what a body is written in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from normtree.engine.timing.schema import Timing
from normtree.formats.contents import Contents, Entry
from normtree.formats.oip import Region
from normtree.http.body.body_limit import BodyLimit
from normtree.http.body.inflate import Inflated
from normtree.http.body.receive import Body, fill
from normtree.http.head.head import Head
from normtree.http.head.query import WorkQuery
from normtree.http.request.buffers import Room
from normtree.http.request.work import Outcome
from normtree.settings import Settings


class Asked(NamedTuple):
    """What a request says before its body.

    Args:
        head: its headers.
        query: what follows the question mark, as the request line has it.
        settings: the limits.
        body_limit: how large its body may be.
        media_type: what its body is declared as, where that has been looked at.
        readable: what it may be declared as.
    """

    head: Head
    query: bytes
    settings: Settings
    body_limit: BodyLimit
    media_type: str = ""
    readable: str = ""


@dataclass(slots=True)
class Arrival:
    """A body whose header has been read: what it holds is known, its data is still on its way.

    Attributes:
        contents: the tensors, in the order of their bytes.
        chosen: those that are projected.
        query: how.
        answer: the format of the answer.
        answer_type: its media type.
        first: bytes of the data that came with the header.
        rest: where the others will come from.
        compact: whether only the surviving groups are wanted.
        named: whether the tensors have names of their own.
        source: the part of a client's shared memory that the only tensor is in, where it does not come in the body.
        target: the one that its projection goes to, where it does not go in the answer.
    """

    contents: Contents
    chosen: tuple[Entry, ...]
    query: WorkQuery
    answer: "Format"
    answer_type: str
    first: bytes | memoryview
    rest: Body | Inflated
    compact: bool = False
    named: bool = False
    source: Region | None = None
    target: Region | None = None

    @property
    def arriving(self) -> Sequence[Entry]:
        """The tensors that come with the request."""
        return () if self.source else self.contents.entries

    @property
    def leaving(self) -> Sequence[Entry]:
        """Those whose projections go with the answer."""
        return () if self.target else self.chosen

    async def read_into(self, places: Sequence[memoryview]) -> None:
        """Read the data into buffers, one a tensor that arrives, as long as they are; raises what `Body.chunk` does."""
        await fill(places, self.first, self.rest)


class FinishedRequest(NamedTuple):
    """A request whose work is done.

    Args:
        arrival: what came.
        room: where it and the projections are.
        outcome: what became of the tensors.
        timing: of all of the request but its answer.
        total_ms: milliseconds of the request so far.
        trace: the path of the request's trace; None where none was asked for.
    """

    arrival: Arrival
    room: Room
    outcome: Outcome
    timing: Timing
    total_ms: float
    trace: str | None


class Payload(NamedTuple):
    """The bytes of an answer, and what is to be known to send them.

    Args:
        header: bytes before the data.
        parts: the data, in order; views of bytes that stay valid until what they are of is released.
        headers: what the answer's headers tell of its bytes.
        needs_sources: whether some of the data is what came: tensors that passed through.
    """

    header: bytes
    parts: tuple[memoryview, ...]
    headers: Mapping[str, str] = {}
    needs_sources: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of all of it."""
        return len(self.header) + sum(map(len, self.parts))


class Format(Protocol):
    """A format of requests and answers."""

    async def open(self, asked: Asked, body: Body) -> Arrival:
        """Check the request, then read the header of its body and no more than what came with it.

        Raises:
            NormtreeError: the body, or what the request asks for, is at fault.
        """
        ...

    def write(self, projected: FinishedRequest) -> Payload:
        """Make the answer's bytes."""
        ...

    def timing_headers(self, projected: FinishedRequest, timing: Timing) -> dict[str, str]:
        """Return what the answer's headers tell of the work, in a new dictionary.

        Args:
            projected: what was written.
            timing: of all of the request, its answer included.
        """
        ...
