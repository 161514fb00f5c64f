"""The projection tree as three functions: a leaf up, the root, a leaf down.

They are plain, pure and importable: the inline engine calls them on threads, the Ray engine makes tasks of them.
A leaf's input and output are different segments, so running one twice changes nothing.
"""

import os
from dataclasses import dataclass
from time import perf_counter_ns

import numpy as np

from normtree.engine.plan import Plan
from normtree.engine.tensor import Tensor
from normtree.engine.timing import Span
from normtree_kernels.blocks import Block
from normtree_kernels.dtypes import Float64Array
from normtree_kernels.euclidean import water_levels
from normtree_kernels.norms import MixedNorm
from normtree_kernels.sweep import down as sweep_down
from normtree_kernels.sweep import up as sweep_up
from normtree_kernels.tree import crown


@dataclass(frozen=True)
class Leaf:
    """What one leaf needs for its down-sweep: its fibres' norms and radii, in the norm's order of axes."""

    norms: Float64Array
    radii: Float64Array

    @property
    def nbytes(self) -> int:
        """Bytes that travel from the root to the leaf."""
        return self.norms.nbytes + self.radii.nbytes


@dataclass(frozen=True)
class Root:
    """What the root found.

    Args:
        norm: the tensor's mixed norm; NaN or infinite where it holds such a value or its norm overflows.
        radius: of the ball.
        span: all of its work.
        steps: of that, the sweeps of the upper levels.
        nbytes: bytes of aggregates that came up and of radii that went down.
    """

    norm: float
    radius: float
    span: Span
    steps: tuple[Span, ...]
    nbytes: int


def leaf_up(source: Tensor, norm: MixedNorm, block: Block) -> tuple[Float64Array, Span]:
    """Aggregate one block where it lives: the norms of its fibres."""
    start_ns = perf_counter_ns()
    part = source.array().transpose(norm.order)[block.index(norm.order)]
    norms = sweep_up(norm.inner.norm, part, len(norm.kept_axes))
    span = Span("up", len(norm.levels) - 1, start_ns, perf_counter_ns(), part.nbytes, os.getpid())
    return norms, span


def root(plan: Plan, source: Tensor, *ups: tuple[Float64Array, Span]) -> tuple[Root, *tuple[Leaf, ...]]:
    """Put the leaves' aggregates together, project them, and cut the radii for the leaves.

    Args:
        plan: the tensor's.
        source: the tensor, which an exact projection reads again.
        ups: what `leaf_up` returned for each of the plan's blocks.
    """
    start_ns = perf_counter_ns()
    norm, blocks = plan.norm, plan.blocks
    norms = np.empty(plan.kept_shape)
    for block, (part, _) in zip(blocks, ups, strict=True):
        norms[block.index(norm.kept_axes)] = part
    top = crown(norm, norms, plan.goal)
    radii = top.radii
    if plan.exact and 0.0 < top.radius < top.norm < np.inf:
        radii = water_levels(source.array(), norm, norms, top.radius, plan.workers)
    leaves = tuple(
        Leaf(np.ascontiguousarray(norms[here]), np.ascontiguousarray(radii[here]))
        for here in (block.index(norm.kept_axes) for block in blocks)
    )
    worker = os.getpid()
    steps = tuple(Span(s.sweep, s.level, s.start_ns, s.stop_ns, s.nbytes, worker) for s in top.steps)
    nbytes = norms.nbytes + sum(leaf.nbytes for leaf in leaves)
    span = Span("root", 0, start_ns, perf_counter_ns(), nbytes, worker)
    return Root(top.norm, top.radius, span, steps, nbytes), *leaves


def leaf_down(source: Tensor, target: Tensor, norm: MixedNorm, block: Block, leaf: Leaf) -> Span:
    """Project one block where it lives, each fibre on its own radius; nothing where the norms are not finite."""
    start_ns = perf_counter_ns()
    part = source.array().transpose(norm.order)[block.index(norm.order)]
    out = target.array(writable=True).transpose(norm.order)[block.index(norm.order)]
    if np.isfinite(leaf.norms).all():
        sweep_down(norm.inner.norm, part, len(norm.kept_axes), leaf.norms, leaf.radii, out)
    nbytes = part.nbytes + out.nbytes
    return Span("down", len(norm.levels) - 1, start_ns, perf_counter_ns(), nbytes, os.getpid())
