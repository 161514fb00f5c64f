"""The leaves of a tree over shared memory: plain, importable and pure functions of small arguments.

They read the tensor and write to other segments, so running one twice, in whatever process, changes nothing. What goes
between them and the root, and has a value for each fibre, lies on the run's slate.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from threading import get_native_id
from time import perf_counter_ns

from normtree.engine.memory.stop import Stop
from normtree.engine.memory.tensor import Tensor
from normtree.engine.survivors import Groups, groups_down
from normtree.engine.timing.schema import Span, Sweep
from normtree_kernels.norms.mixed_norm import MixedNorm
from normtree_kernels.parts.gathered import Gathered
from normtree_kernels.parts.questions import Answer, Excess, Question
from normtree_kernels.tree.blocks import Block
from normtree_kernels.tree.pieces import Piece, answers, cut_pieces


@dataclass(frozen=True)
class Branch:
    """One tensor of a tree.

    Args:
        norm: mixed norm bound to the tensor's axes.
        source: the tensor; not changed.
        target: its projection, to be; shares no memory with the source.
    """

    norm: MixedNorm
    source: Tensor
    target: Tensor


@dataclass(frozen=True)
class Posted:
    """A question as it is put to leaves.

    Args:
        question: without what it says of each fibre.
        values: where that is, each in the shape of the kept axes in the norm's order.
        answers: where the leaves write; none, where answers are added: these they return.
    """

    question: Question
    values: tuple[Tensor, ...]
    answers: tuple[Tensor, ...]


def sweep_of(question: Question) -> Sweep:
    """What reading a tensor for a question counts as: thresholds belong to the way down."""
    return "down" if isinstance(question, Excess) else "up"


def leaf_ask(stop: Stop, branch: Branch, block: Block, posted: Posted) -> tuple[Span, Answer]:
    """Put a question to one block where it lives; return what is to be added.

    Raises:
        Stopped: nobody wants it any more.
    """
    start_ns = perf_counter_ns()
    norm, nbytes = branch.norm, 0
    y = branch.source.array()
    values = [tensor.array() for tensor in posted.values]
    gathered = Gathered(posted.question, [tensor.array(writable=True) for tensor in posted.answers])
    pieces = _while_wanted(stop, cut_pieces(y.shape, y.itemsize, norm, block))
    for piece, found, read in answers(posted.question, y.transpose(norm.order), pieces, values):
        gathered.put(piece.slots, piece.fibres, found)
        nbytes += read
    added = gathered.whole if posted.question.is_added else ()
    sweep = sweep_of(posted.question)
    return Span(sweep, len(norm.levels) - 1, start_ns, perf_counter_ns(), nbytes, get_native_id()), added


def leaf_project(stop: Stop, branch: Branch, block: Block | Groups, balls: tuple[Tensor, ...]) -> tuple[Span, Answer]:
    """Project one block where it lives, or some of the surviving groups.

    Args:
        stop: when to end.
        branch: the tensor.
        block: of it, or the groups.
        balls: what its fibres are projected by, each in the shape of the kept axes in the norm's order.

    Raises:
        Stopped: nobody wants it any more.
    """
    if isinstance(block, Groups):
        return groups_down(stop, (branch.source, branch.target), branch.norm, block, balls), ()
    start_ns = perf_counter_ns()
    norm, nbytes = branch.norm, 0
    y = branch.source.array().transpose(norm.order)
    x = branch.target.array(writable=True).transpose(norm.order)
    values = [tensor.array() for tensor in balls]
    for piece in _while_wanted(stop, cut_pieces(branch.source.shape, y.itemsize, norm, block)):
        nbytes += 2 * piece.project(norm, y, tuple(each[piece.fibres] for each in values), x)
    return Span("down", len(norm.levels) - 1, start_ns, perf_counter_ns(), nbytes, get_native_id()), ()


def _while_wanted(stop: Stop, pieces: Iterable[Piece]) -> Iterator[Piece]:
    for piece in pieces:
        stop.check()
        yield piece
