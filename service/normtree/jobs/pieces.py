"""What is to be done, as plain data: pieces of tensors, tasks of pieces, and what comes back of them."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from normtree.jobs.cut import Cut
from normtree.jobs.facts import Facts
from normtree.jobs.layout import Layout
from normtree.jobs.questions import Answer, Question
from normtree.jobs.root import Aim
from normtree_kernels.dtypes import Float64Array

Kind = Literal["copy", "whole", "up", "round", "down"]


@dataclass(frozen=True)
class Work:
    """A tensor that is to be projected.

    Args:
        name: its name.
        shard: the file it is in.
        start: where its bytes begin in the file.
        index: its place among the plan's works.
        cut: its shape, dtype and norm, and how it is cut where several tasks share it.
        rule: index of its rule.
        aim: what its projection is to reach.
        own: whether it is the exact projection that has an algorithm of its own.
    """

    name: str
    shard: str
    start: int
    index: int
    cut: Cut
    rule: int
    aim: Aim
    own: bool = False

    @property
    def layout(self) -> Layout:
        """Its shape, dtype and norm, as rows."""
        return self.cut.layout

    @property
    def nbytes(self) -> int:
        """Its size, in bytes."""
        return self.layout.rows * self.layout.row_bytes

    @property
    def ranks(self) -> bool:
        """Whether its radius depends on how its elements rank: each is a group, and a number of them is to vanish."""
        goal = self.aim.goal
        return len(self.layout.norm.levels) == 1 and goal is not None and goal.radius is None


@dataclass(frozen=True)
class Copy:
    """Bytes of a shard that no rule claims, its header among them."""

    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        """How many."""
        return self.stop - self.start


@dataclass(frozen=True)
class Whole:
    """A tensor that one worker reads, projects and writes."""

    work: Work

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return self.work.nbytes


@dataclass(frozen=True)
class _Panels:
    """Some panels of a tensor, by their numbers."""

    work: Work
    first: int
    last: int

    @cached_property
    def nbytes(self) -> int:
        """Bytes of the panels."""
        cut = self.work.cut
        return sum(cut.nbytes(panel) for panel in cut.panels(self.first, self.last))


@dataclass(frozen=True)
class Up(_Panels):
    """The up-sweep of some panels."""


@dataclass(frozen=True)
class Ask(_Panels):
    """A question about some panels, between the sweeps."""

    question: Question


@dataclass(frozen=True)
class Down(_Panels):
    """The down-sweep of some panels.

    Args:
        balls: norms and radii of the fibres in the panels' box; or, where an l1 level's fibres are cut, what
            `normtree_kernels.parts.Thresholds` found.
    """

    balls: tuple[Float64Array, ...]


Swept = Up | Ask | Down
Piece = Copy | Whole | Swept


@dataclass(frozen=True)
class Task:
    """Pieces of one shard that a worker does in one go.

    Pure: its input is never written to, and done twice it writes the same bytes to the same places.
    """

    shard: str
    size: int
    pieces: tuple[Piece, ...]

    @cached_property
    def written(self) -> int:
        """Bytes of the output that it writes."""
        return sum(piece.nbytes for piece in self.pieces if not isinstance(piece, Up | Ask))

    @cached_property
    def read(self) -> int:
        """Bytes of the input that it reads."""
        return self.written + sum(piece.nbytes for piece in self.pieces if isinstance(piece, Up | Ask))


@dataclass(frozen=True)
class Lowered:
    """What a down-sweep measured of what it wrote.

    Args:
        norms: of the parts of fibres that each panel holds.
        squares: squared length of what it took away.
        nonzero: elements that are left.
    """

    norms: tuple[Float64Array, ...]
    squares: float
    nonzero: int


Result = tuple[Answer, ...] | Facts | Lowered | None


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

    kind: Kind
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
