"""A format of bodies that hold tensors and nothing else; how they are projected says the query."""

from abc import ABC, abstractmethod
from typing import ClassVar

from normtree.engine.timing.schema import Timing
from normtree.errors import InvalidParameter
from normtree.formats.contents import Contents, Entry, Prefix
from normtree.http.body.receive import Body, wrong_length
from normtree.http.body_formats.selection import select
from normtree.http.head.query import ProjectQuery, read_query
from normtree.http.request.format import Arrival, Asked, FinishedRequest, Payload
from normtree.http.request.work_report import timing_headers, to_json
from normtree.http.threads.off_loop import SHORT_BYTES, off_loop
from normtree.http.watching.kept_traces import HEADER as TRACE_HEADER

COMPACT_PARTS = ("index", "values", "shape")


class TensorFormat(ABC):
    """A format whose header is read from the first bytes of a body.

    One of its own gives its names, `read_header` and `write`, and stands in a line of
    `normtree.http.body_formats.registry`.

    Attributes:
        name: for people.
        media_types: that stand for it, the best first.
        shared_types: that stand for others as well; the body itself must say that it is one.
        query: its parameters; those that only it has besides.
        has_names: whether its tensors have names of their own.
        is_brief: whether its header is read in no time, however long.
    """

    name: ClassVar[str]
    media_types: ClassVar[tuple[str, ...]]
    shared_types: ClassVar[tuple[str, ...]] = ()
    query: ClassVar[type[ProjectQuery]] = ProjectQuery
    has_names: ClassVar[bool] = False
    is_brief: ClassVar[bool] = True

    @abstractmethod
    def read_header(self, prefix: Prefix, asked: Asked, query: ProjectQuery) -> Contents | None:
        """Read the header from the first bytes of a body; None where more are needed.

        Args:
            prefix: the bytes, as many as there are by now.
            asked: what the request says before them, and the limits.
            query: its parameters, checked.

        Raises:
            MalformedBody, BodyTooLarge, InvalidTensor: it is no header, or one of tensors that are not taken.
        """

    @abstractmethod
    def write(self, projected: FinishedRequest) -> Payload:
        """Make the answer's bytes."""

    def why_not(self, arrival: Arrival) -> str:
        """Say why it cannot hold the answer, as "… are written as others"; nothing where it can."""
        return ""

    async def open(self, asked: Asked, body: Body) -> Arrival:
        """Read the query and the header of the body, and no more than what came with it.

        Raises:
            InvalidParameter: a parameter at fault; or it selects nothing, or takes a name twice.
            MalformedBody: a broken header, or one that announces another length than the body has.
            BodyTooLarge, InvalidTensor: more than is taken, or what cannot be projected.
            BodyTimeout: the header did not arrive in time.
        """
        query = read_query(asked.query, self.query)
        prefix: Prefix = await body.chunk()
        while (contents := await self._read(prefix, asked, query)) is None:
            prefix = bytearray(prefix) if isinstance(prefix, bytes) else prefix
            prefix += await body.chunk()
        wanted = contents.data_offset + contents.data_bytes
        if body.length != wanted:
            raise wrong_length(f"what its {self.name} header announces", wanted, body.length)
        chosen = select(contents, query, asked.settings)
        compact = query.output == "compact"
        if compact:
            _check_names(contents, chosen)
        first = memoryview(prefix)[contents.data_offset :]
        return Arrival(contents, chosen, query, self, asked.media_type, first, body, compact, self.has_names)

    def timing_headers(self, projected: FinishedRequest, timing: Timing) -> dict[str, str]:
        """Tell of the work: the timing, what was converted, the certificate of one ball, where the trace is."""
        headers = timing_headers(timing, projected.outcome.timings)
        headers.update(_answer_headers(projected))
        if projected.trace:
            headers[TRACE_HEADER] = projected.trace
        return headers

    async def _read(self, prefix: Prefix, asked: Asked, query: ProjectQuery) -> Contents | None:
        """Read what has arrived of the header; on a thread where there may be much of it."""
        if self.is_brief or len(prefix) <= SHORT_BYTES:
            return self.read_header(prefix, asked, query)
        return await off_loop(lambda: self.read_header(prefix, asked, query), short=False)


def _check_names(contents: Contents, chosen: tuple[Entry, ...]) -> None:
    """Refuse compact forms whose names another tensor of the answer has already."""
    names = {entry.name for entry in contents.entries}
    for entry in chosen:
        clash = names.intersection(f"{entry.name}.{part}" for part in COMPACT_PARTS)
        if clash:
            detail = f"output: the compact form of {entry.name!r} would take the name of another tensor"
            raise InvalidParameter(detail, pointer="output", got=clash.pop())


def _answer_headers(projected: FinishedRequest) -> dict[str, str]:
    """Return what was converted, and the certificate of one ball."""
    headers: dict[str, str] = {}
    entries, outcome = projected.arrival.contents.entries, projected.outcome
    converted = []
    for entry in entries:
        if entry.order == "F":
            converted.append("fortran-order")
        if entry.big_endian:
            converted.append("big-endian")
    if converted:
        headers["X-Normtree-Converted"] = ", ".join(sorted(set(converted), reverse=True))
    certificates = [outcome.certificate] if outcome.certificate else [one.certificate for one in outcome.done.values()]
    if len(certificates) == 1 and certificates[0]:
        headers["X-Normtree-Certificate"] = to_json(certificates[0])
    return headers
