"""What is to be done, as plain data: pieces of tensors, tasks of pieces, and what comes back of them."""

from dataclasses import dataclass
from typing import Literal

from normtree.jobs.facts import Facts
from normtree.jobs.layout import Layout
from normtree.jobs.root import Aim
from normtree_kernels.dtypes import Float64Array


@dataclass(frozen=True)
class Work:
    """A tensor that is to be projected.

    Args:
        name: its name.
        shard: the file it is in.
        start: where its bytes begin in the file.
        layout: its shape, dtype and norm, as rows.
        rule: index of its rule.
        aim: what its projection is to reach.
        own: whether it is the exact projection that has an algorithm of its own.
    """

    name: str
    shard: str
    start: int
    layout: Layout
    rule: int
    aim: Aim
    own: bool = False

    @property
    def key(self) -> str:
        """What tells it from all others: shards of several models in one folder may use the same names."""
        return f"{self.shard}:{self.name}"

    @property
    def nbytes(self) -> int:
        """Its size, in bytes."""
        return self.layout.rows * self.layout.row_bytes

    def at(self, row: int) -> int:
        """Where a row begins in the file."""
        return self.start + row * self.layout.row_bytes


@dataclass(frozen=True)
class Copy:
    """Bytes of a shard that no rule claims, its header among them."""

    start: int
    stop: int


@dataclass(frozen=True)
class Whole:
    """A tensor that one worker reads, projects and writes."""

    work: Work


@dataclass(frozen=True)
class Up:
    """The up-sweep of some rows of a tensor."""

    work: Work
    first: int
    last: int


@dataclass(frozen=True)
class Down:
    """The down-sweep of some rows of a tensor, given their fibres' norms and radii."""

    work: Work
    first: int
    last: int
    v: Float64Array
    u: Float64Array


Piece = Copy | Whole | Up | Down


@dataclass(frozen=True)
class Task:
    """Pieces of one shard that a worker does in one go.

    Pure: its input is never written to, and done twice it writes the same bytes to the same places.
    """

    shard: str
    size: int
    pieces: tuple[Piece, ...]

    @property
    def written(self) -> int:
        """Bytes of the output that it writes."""
        return sum(_written(piece) for piece in self.pieces)

    @property
    def read(self) -> int:
        """Bytes of the input that it reads."""
        return self.written + sum(_rows_bytes(piece) for piece in self.pieces if isinstance(piece, Up))


@dataclass(frozen=True)
class Lowered:
    """What a down-sweep measured of the rows it wrote.

    Args:
        v: the fibres' norms after it.
        squares: squared length of what it took away.
        nonzero: elements that are left.
    """

    v: Float64Array
    squares: float
    nonzero: int


Result = Float64Array | Facts | Lowered | None


@dataclass(frozen=True)
class Stint:
    """When a worker did a task, by the clock of the day, which all nodes share.

    Args:
        kind: what it mostly was.
        shard: file it belongs to.
        worker: who did it: node and process or thread.
        start_ns: `time.time_ns` when it began.
        stop_ns: and when it ended.
        read: bytes read.
        written: bytes written.
    """

    kind: Literal["copy", "whole", "up", "down"]
    shard: str
    worker: str
    start_ns: int
    stop_ns: int
    read: int
    written: int


@dataclass(frozen=True)
class Done:
    """A task, what came of each of its pieces, and when."""

    task: Task
    results: tuple[Result, ...]
    stint: Stint


def _written(piece: Piece) -> int:
    if isinstance(piece, Copy):
        return piece.stop - piece.start
    if isinstance(piece, Whole):
        return piece.work.nbytes
    return 0 if isinstance(piece, Up) else _rows_bytes(piece)


def _rows_bytes(piece: Up | Down) -> int:
    return (piece.last - piece.first) * piece.work.layout.row_bytes
