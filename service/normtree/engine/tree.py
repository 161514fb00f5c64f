"""The projection tree as functions: leaves up, the root, a leaf down.

The leaves are plain, importable and pure: they read the tensor and write to another segment, so running one twice, in
whatever process, changes nothing. What goes between them and the root lies on the run's slate.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from threading import get_native_id
from time import perf_counter_ns

import numpy as np

from normtree.engine.long_fibres import LongFibres, part_down, part_up
from normtree.engine.pieces import cut_pieces
from normtree.engine.stop import Stop
from normtree.engine.survivors import Groups, groups_down
from normtree.engine.tensor import Tensor
from normtree.engine.timing import Span
from normtree_kernels.blocks import Block
from normtree_kernels.dtypes import Float64Array
from normtree_kernels.goal import Goal, Reach
from normtree_kernels.norms import MixedNorm
from normtree_kernels.radius import settle
from normtree_kernels.sweep import active as sweep_active
from normtree_kernels.sweep import down as sweep_down
from normtree_kernels.sweep import up as sweep_up
from normtree_kernels.tree import Crown, crown, crowns


@dataclass(frozen=True)
class Branch:
    """One tensor of a tree: where it is, where it goes, and where its aggregates and radii are.

    Args:
        norm: mixed norm bound to the tensor's axes.
        source: the tensor; not changed.
        target: its projection, to be; shares no memory with the source.
        norms: float64, shape of the kept axes in the norm's order: the fibres' norms.
        radii: the same shape: the fibres' radii.
        long: what its fibres need where they are cut into parts.
    """

    norm: MixedNorm
    source: Tensor
    target: Tensor
    norms: Tensor
    radii: Tensor
    long: LongFibres | None = None


@dataclass(frozen=True)
class Root:
    """What the root found.

    Args:
        norms: the tensors' own mixed norms; NaN or infinite where one holds such a value or its norm overflows.
        finite: whether all are, and all together.
        reach: the radius of the ball, and the outermost groups asked for and left.
        inside: whether the tensors lie in it already.
        span: all of the root's work.
        steps: of that, the sweeps of the upper levels.
    """

    norms: tuple[float, ...]
    finite: bool
    reach: Reach
    inside: bool
    span: Span
    steps: tuple[Span, ...]


def leaf_up(stop: Stop, branch: Branch, block: Block) -> Span:
    """Aggregate one block where it lives: write the norms of its fibres.

    Raises:
        Stopped: nobody wants it any more.
    """
    if branch.long:
        return part_up(stop, branch.source, branch.norm, block, branch.long)
    start_ns = perf_counter_ns()
    norm, nbytes = branch.norm, 0
    y = branch.source.array().transpose(norm.order)
    norms = branch.norms.array(writable=True)
    for piece in cut_pieces(branch.source.shape, branch.source.dtype, norm, block):
        stop.check()
        part = y[piece.part]
        norms[piece.kept] = sweep_up(norm.inner.norm, part, len(norm.kept_axes))
        nbytes += part.nbytes
    return Span("up", len(norm.levels) - 1, start_ns, perf_counter_ns(), nbytes, get_native_id())


def leaf_down(stop: Stop, branch: Branch, block: Block | Groups) -> Span:
    """Project one block where it lives, or some of the survivors, each fibre on its own radius.

    Raises:
        Stopped: nobody wants it any more.
    """
    tensors, balls = (branch.source, branch.target), (branch.norms, branch.radii)
    if isinstance(block, Groups):
        return groups_down(stop, tensors, branch.norm, block, balls)
    if branch.long:
        return part_down(stop, tensors, branch.norm, block, balls, branch.long)
    start_ns = perf_counter_ns()
    norm, nbytes = branch.norm, 0
    y = branch.source.array().transpose(norm.order)
    x = branch.target.array(writable=True).transpose(norm.order)
    norms, radii = branch.norms.array(), branch.radii.array()
    for piece in cut_pieces(branch.source.shape, branch.source.dtype, norm, block):
        stop.check()
        part, out = y[piece.part], x[piece.part]
        sweep_down(norm.inner.norm, part, len(norm.kept_axes), norms[piece.kept], radii[piece.kept], out)
        nbytes += part.nbytes + out.nbytes
    return Span("down", len(norm.levels) - 1, start_ns, perf_counter_ns(), nbytes, get_native_id())


def leaf_active(stop: Stop, branch: Branch, sums: Tensor, counts: Tensor, block: Block) -> Span:
    """Sum and count one block's magnitudes above their fibres' radii.

    Raises:
        Stopped: nobody wants it any more.
    """
    start_ns = perf_counter_ns()
    norm, nbytes = branch.norm, 0
    y = branch.source.array().transpose(norm.order)
    radii = branch.radii.array()
    found = sums.array(writable=True), counts.array(writable=True)
    for piece in cut_pieces(branch.source.shape, branch.source.dtype, norm, block):
        stop.check()
        part = y[piece.part]
        found[0][piece.kept], found[1][piece.kept] = sweep_active(part, len(norm.kept_axes), radii[piece.kept])
        nbytes += part.nbytes
    return Span("up", len(norm.levels) - 1, start_ns, perf_counter_ns(), nbytes, get_native_id())


def root(branches: Sequence[Branch], goal: Goal) -> Root:
    """Project the aggregates of all tensors together, and write each one's radii.

    Args:
        branches: at least one; several must have two levels or more and one outermost norm.
        goal: what to reach, with all tensors together.
    """
    start_ns = perf_counter_ns()
    for branch in branches:
        if branch.long:
            branch.long.fold(branch.norm.inner.norm, branch.norms)
    tops = _tops(branches, goal)
    for branch, top in zip(branches, tops, strict=True):
        branch.radii.array(writable=True)[...] = top.radii
    worker = get_native_id()
    nbytes = sum(branch.norms.nbytes + branch.radii.nbytes for branch in branches)
    span = Span("root", 0, start_ns, perf_counter_ns(), nbytes, worker)
    steps = (Span(s.sweep, s.level, s.start_ns, s.stop_ns, s.nbytes, worker) for top in tops for s in top.steps)
    norms = tuple(top.norm for top in tops)
    finite = all(map(math.isfinite, norms)) and not any(np.isnan(top.radii).any() for top in tops)
    return Root(norms, finite, tops[0].reach, tops[0].inside, span, tuple(steps))


def _tops(branches: Sequence[Branch], goal: Goal) -> list[Crown]:
    norms = [branch.norm for branch in branches]
    aggregates = [np.asarray(branch.norms.array()) for branch in branches]
    if len(branches) > 1:
        return crowns(norms, aggregates, goal)
    return [find_crown(norms[0], aggregates[0], goal, branches[0].source)]


def find_crown(norm: MixedNorm, v: Float64Array, goal: Goal, source: Tensor) -> Crown:
    """Project one tensor's aggregates.

    Args:
        norm: mixed norm bound to its axes.
        v: float64, shape of the kept axes in the norm's order: the fibres' norms.
        goal: what to reach.
        source: the tensor, which is looked at where its elements are the groups.
    """
    if goal.radius is None and len(norm.levels) == 1:  # what is above the elements knows none of them
        return crown(norm, v, settle(goal, norm, source.array()) if np.isfinite(v) else Goal(radius=0.0))
    return crown(norm, v, goal)
