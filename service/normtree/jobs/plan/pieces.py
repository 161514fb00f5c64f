"""What is to be done, as plain data: pieces of tensors, tasks of pieces, and what comes back of them."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

from normtree.jobs.plan.cut import Cut
from normtree.jobs.plan.facts import Facts
from normtree.jobs.plan.layout import Layout
from normtree_kernels.parts.questions import Answer, Norms, Question
from normtree_kernels.tree.goal import Aim
from normtree_kernels.tree.projection import ProjectionProblem
from normtree_kernels.vector_norm import Balls

Kind = Literal["copy", "whole", "up", "round", "down"]


@dataclass(frozen=True)
class TensorWork:
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
    def norms(self) -> Norms:
        """The question of its up-sweep."""
        inner = self.layout.norm.inner.norm
        return Norms(inner if self.layout.fibre > 1 else inner.of_one)

    def problem(self, *, is_shared: bool = False) -> ProjectionProblem:
        """Say what is to be done with it; ``is_shared`` where its root is that of several tensors."""
        layout = self.layout
        return ProjectionProblem(
            layout.norm,
            layout.fibre,
            layout.element,
            self.aim,
            own=self.own,
            in_chunks=self.cut.in_chunks,
            is_shared=is_shared,
            to_norm=layout.to_norm,
            to_home=layout.to_rows,
        )


@dataclass(frozen=True)
class Copy:
    """Bytes of a shard that no rule claims, its header among them."""

    start: int
    stop: int
    kind: ClassVar[Kind] = "copy"

    @property
    def nbytes(self) -> int:
        """How many."""
        return self.stop - self.start


@dataclass(frozen=True)
class Whole:
    """A tensor that one worker reads, projects and writes."""

    work: TensorWork
    kind: ClassVar[Kind] = "whole"

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return self.work.nbytes


@dataclass(frozen=True)
class _Panels:
    """Some panels of a tensor, by their numbers."""

    work: TensorWork
    first: int
    last: int

    @cached_property
    def nbytes(self) -> int:
        """Bytes of the panels."""
        cut = self.work.cut
        return sum(cut.nbytes(panel) for panel in cut.panels(self.first, self.last))


@dataclass(frozen=True)
class AskPanels(_Panels):
    """A question about some panels: their up-sweep first, and then what takes further rounds."""

    question: Question

    @property
    def is_up(self) -> bool:
        """Whether it is the up-sweep."""
        return self.question == self.work.norms

    @property
    def kind(self) -> Kind:
        """What it is, for the report."""
        return "up" if self.is_up else "round"


@dataclass(frozen=True)
class Down(_Panels):
    """The down-sweep of some panels.

    Args:
        balls: of the fibres in the panels' box; see `normtree_kernels.parts.part.Part.project`.
    """

    balls: Balls
    kind: ClassVar[Kind] = "down"


Swept = AskPanels | Down
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
        return sum(piece.nbytes for piece in self.pieces if not isinstance(piece, AskPanels))

    @cached_property
    def read(self) -> int:
        """Bytes of the input that it reads."""
        return self.written + sum(piece.nbytes for piece in self.pieces if isinstance(piece, AskPanels))


@dataclass(frozen=True)
class Lowered:
    """What a down-sweep measured of what it wrote.

    Args:
        norms: what each panel then answered to the question of the up-sweep.
        squares: squared length of what it took away.
        nonzero: elements that are left.
    """

    norms: tuple[Answer, ...]
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
class TaskDone:
    """A task, what came of each of its pieces, and when."""

    task: Task
    results: tuple[Result, ...]
    stint: Stint
