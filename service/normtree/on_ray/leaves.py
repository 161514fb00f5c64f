"""Leaves on blocks that a cluster holds: plain functions of a block, which look between pieces whether time is left.

Each takes the time it has, by its node's clock, and the block, and returns what it found and how long it worked.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from threading import get_native_id
from time import perf_counter_ns, time
from typing import Any

import numpy as np

from normtree.engine.leaves import sweep_of
from normtree.engine.memory.stop import Stopped
from normtree.engine.timing.schema import Span, Sweep
from normtree.on_ray.ask import Ask, checked
from normtree_kernels.arguments import not_finite
from normtree_kernels.compiled.lanes import chunk_count
from normtree_kernels.dtypes import Array, Float64Array, check_tensor
from normtree_kernels.norms.mixed_norm import MixedNorm
from normtree_kernels.parts.gathered import Gathered
from normtree_kernels.parts.questions import Answer, Norms, Question
from normtree_kernels.refusals import Refusal
from normtree_kernels.tree.blocks import Block
from normtree_kernels.tree.pieces import Piece, answers, cut_pieces


@dataclass(frozen=True)
class Extent:
    """What a block has of a tensor's fibres: whole ones, or a part of each.

    Args:
        norm: mixed norm bound to the tensor's axes.
        in_chunks: whether it answers chunk by chunk; see `normtree_kernels.parts.part.Part`.
        whole: elements in a whole fibre; where that is not known yet, 2 if the block may have a part of them, else 1.
        start: the fibres' first element that it has.
    """

    norm: MixedNorm
    in_chunks: bool
    whole: int
    start: int = 0

    def slots(self, shape: Sequence[int]) -> int:
        """How many slots a block of that shape has; none without elements."""
        return 0 if prod(shape) == 0 else chunk_count(self._length(shape)) if self.in_chunks else 1

    def pieces(self, until_s: float, block: Array) -> Iterator[Piece]:
        """Cut a block into pieces, and hand them out for as long as there is time; of one without elements, none."""
        if block.size == 0:
            return
        length = self._length(block.shape)
        held = Block(None, 0, 1, (0, length) if self.in_chunks else None)
        for piece in cut_pieces(block.shape, block.dtype.itemsize, self.norm, held):
            if time() >= until_s:  # by this node's clock: who cancels a running task would have to reach it
                raise Stopped
            yield replace(piece, whole=max(self.whole, length))

    def _length(self, shape: Sequence[int]) -> int:
        return prod(shape[axis] for axis in self.norm.inner.axes)


@dataclass(frozen=True)
class Up:
    """What a leaf tells of its block at first.

    Args:
        shape: of the block.
        dtype: of its elements.
        norms: of its fibres or their chunks, as `normtree_kernels.parts.questions.Norms` is answered.
    """

    shape: tuple[int, ...]
    dtype: str
    norms: Answer


def leaf_up(until_s: float, block: Array, ask: Ask) -> tuple[Up, Span]:
    """Look at a block, and aggregate it."""
    start_ns = perf_counter_ns()
    block = checked(check_tensor, block, "blocks")
    bound = ask.bind(block.ndim)
    extent = Extent(bound.mixed, bound.in_chunks, 2 if bound.across else 1)
    norms, span = leaf_ask(until_s, block, extent, Norms(bound.mixed.inner.norm))
    return Up(block.shape, block.dtype.name, norms), span._replace(start_ns=start_ns)


def leaf_ask(
    until_s: float, block: Array, extent: Extent, question: Question, *values: Float64Array
) -> tuple[Answer, Span]:
    """Answer a question, which says those values of the block's fibres; with nothing where there are no elements."""
    start_ns, nbytes = perf_counter_ns(), 0
    tensor: Any = block.transpose(extent.norm.order)
    kept = tensor.shape[: len(extent.norm.kept_axes)]
    slots = extent.slots(block.shape)
    gathered = Gathered.of_shape(question, slots, kept) if slots else Gathered(question)
    for piece, found, read in answers(question, tensor, extent.pieces(until_s, block), values, extent.start):
        gathered.put(piece.slots, piece.fibres, found)
        nbytes += read
    return gathered.whole, _span(sweep_of(question), start_ns, nbytes, extent.norm)


def leaf_project(until_s: float, block: Array, extent: Extent, *balls: Float64Array) -> tuple[Array, Span]:
    """Project a block by the balls of its fibres."""
    start_ns = perf_counter_ns()
    made = np.empty(block.shape, block.dtype)
    source, target = (array.transpose(extent.norm.order) for array in (block, made))
    for piece in extent.pieces(until_s, block):
        piece.project(extent.norm, source, tuple(values[piece.fibres] for values in balls), target)
    return made, _span("down", start_ns, block.nbytes + made.nbytes, extent.norm)


def leaf_not_finite(until_s: float, block: Array, name: str, norm: MixedNorm) -> tuple[Refusal, Span]:
    """Say which element cannot be."""
    start_ns = perf_counter_ns()
    return not_finite(block, name, norm), _span("up", start_ns, block.nbytes, norm)


def _span(sweep: Sweep, start_ns: int, nbytes: int, norm: MixedNorm) -> Span:
    return Span(sweep, len(norm.levels) - 1, start_ns, perf_counter_ns(), nbytes, get_native_id())
