"""The projection tree as three functions: a leaf up, the root, a leaf down.

The leaves are plain, importable and pure: they read the tensor and write to another segment, so running one twice, in
whatever process, changes nothing. What goes between them and the root lies on the run's slate.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter_ns

import numpy as np

from normtree.engine.long_fibres import LongFibres, part_down, part_up
from normtree.engine.pieces import cut_pieces
from normtree.engine.stop import Stop
from normtree.engine.tensor import Tensor
from normtree.engine.timing import Span
from normtree_kernels.blocks import Block
from normtree_kernels.goal import Goal
from normtree_kernels.norms import MixedNorm
from normtree_kernels.radius import settle
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
    """What the root found for one tensor.

    Args:
        norm: the tensor's mixed norm; NaN or infinite where it holds such a value or its norm overflows.
        radius: of the ball.
        span: all of the root's work, for all tensors under it.
        steps: of that, the sweeps of this tensor's upper levels.
    """

    norm: float
    radius: float
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
    return Span("up", len(norm.levels) - 1, start_ns, perf_counter_ns(), nbytes, os.getpid())


def leaf_down(stop: Stop, branch: Branch, block: Block) -> Span:
    """Project one block where it lives, each fibre on its own radius.

    Raises:
        Stopped: nobody wants it any more.
    """
    if branch.long:
        tensors, balls = (branch.source, branch.target), (branch.norms, branch.radii)
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
    return Span("down", len(norm.levels) - 1, start_ns, perf_counter_ns(), nbytes, os.getpid())


def root(branches: Sequence[Branch], goal: Goal) -> list[Root]:
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
    worker = os.getpid()
    nbytes = sum(branch.norms.nbytes + branch.radii.nbytes for branch in branches)
    span = Span("root", 0, start_ns, perf_counter_ns(), nbytes, worker)
    return [
        Root(
            top.norm,
            top.radius,
            span,
            tuple(Span(s.sweep, s.level, s.start_ns, s.stop_ns, s.nbytes, worker) for s in top.steps),
        )
        for top in tops
    ]


def _tops(branches: Sequence[Branch], goal: Goal) -> list[Crown]:
    norms = [branch.norm for branch in branches]
    aggregates = [np.asarray(branch.norms.array()) for branch in branches]
    if len(branches) > 1:
        return crowns(norms, aggregates, goal)
    norm, v = norms[0], aggregates[0]
    if goal.radius is None and len(norm.levels) == 1:  # the groups are the elements: what is above them knows none
        goal = settle(goal, norm, branches[0].source.array()) if np.isfinite(v) else Goal(radius=0.0)
    return [crown(norm, v, goal)]
