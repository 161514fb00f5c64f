"""Pieces: a block's work cut so small that a leaf looks up, about every 50 ms at most, whether it is still wanted."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from math import prod

import numpy as np

from normtree_kernels.compiled.lanes import CHUNK, chunk_count
from normtree_kernels.dtypes import Array, Float64Array
from normtree_kernels.norms.mixed_norm import MixedNorm
from normtree_kernels.parts.gathered import Index
from normtree_kernels.parts.part import Part
from normtree_kernels.parts.questions import Answer, Question
from normtree_kernels.tree.blocks import Block
from normtree_kernels.vector_norm import Balls

# A piece of columns that is narrower than a run of so many bytes takes up to twice as long, for every row is another
# page; it may be as many times as large as others as its norm says, to be as wide.
_RUN_BYTES = 1 << 14
_CHUNKED_ELEMENTS = 1 << 22  # of all fibres together
_SCATTERED = 1 << 16  # elements written one by one


@dataclass(frozen=True)
class Piece:
    """A part of a block.

    Args:
        whole: elements in a whole fibre.
        index: cuts its fibres out of the tensor, and out of arrays of the kept axes, in the norm's order of axes.
        kept: number of axes that tell fibres apart.
        elements: of its fibres, whose axes are taken as one in C order, the first and the one after the last; None for
            whole fibres.
    """

    whole: int
    index: Index
    kept: int
    elements: tuple[int, int] | None = None

    @cached_property
    def fibres(self) -> Index:
        """Cuts its fibres out of an array of the kept axes."""
        return (*self.index[: self.kept], ...)

    @property
    def start(self) -> int:
        """Its fibres' first element."""
        return self.elements[0] if self.elements else 0

    @property
    def slots(self) -> slice:
        """Its slots among those of whole fibres; see `normtree_kernels.parts.part.Part`."""
        if self.elements is None:
            return slice(0, 1)
        return slice(self.elements[0] // CHUNK, chunk_count(self.elements[1]))

    def part(self, tensor: Array) -> Part:
        """View it in a tensor whose axes are in the norm's order; a copy of it where no single stride walks fibres."""
        if self.elements is None:
            return Part(tensor[self.index], self.kept, self.whole)
        return Part(_stretch(tensor[self.fibres], self.kept, *self.elements), self.kept, self.whole, in_chunks=True)

    def project(self, norm: MixedNorm, source: Array, balls: Balls, target: Array) -> int:
        """Project it, and return how many bytes it has.

        Args:
            norm: mixed norm bound to the tensor's axes.
            source: the tensor, axes in the norm's order. Not changed.
            balls: of its fibres; see `normtree_kernels.parts.part.Part.project`.
            target: where the projection goes, axes in the norm's order.
        """
        part = self.part(source)
        if self.elements is None:
            part.project(norm.inner.norm, balls, target[self.index])
            return part.fibres.nbytes
        fibres = target[self.fibres]
        try:
            row = fibres.reshape((*fibres.shape[: self.kept], -1), copy=False)
        except ValueError:
            result = np.empty(part.fibres.shape, target.dtype)
            part.project(norm.inner.norm, balls, result)
            _scatter(fibres, self.kept, self.elements[0], result)
        else:
            part.project(norm.inner.norm, balls, row[..., slice(*self.elements)])
        return part.fibres.nbytes


def answers(
    question: Question, tensor: Array, pieces: Iterable[Piece], values: Sequence[Float64Array], start: int = 0
) -> Iterator[tuple[Piece, Answer, int]]:
    """Put a question to pieces of a tensor, one after the other.

    Args:
        question: the question.
        tensor: its axes in the norm's order.
        pieces: of it.
        values: what the question says of each fibre, in the shape of the kept axes.
        start: of its fibres' first element among those of longer fibres, where the tensor is a part of one.

    Yields:
        A piece that it concerns, what that answers, and how many bytes were read.
    """
    for piece in pieces:
        if question.concerns(start + piece.start):
            part = piece.part(tensor)
            yield piece, question.with_values([each[piece.fibres] for each in values]).of(part), part.fibres.nbytes


def as_piece(shape: tuple[int, ...], norm: MixedNorm, block: Block) -> Piece:
    """See a block as one piece, whatever its size.

    Args:
        shape: of the tensor.
        norm: mixed norm bound to its axes.
        block: the block.
    """
    kept, whole = len(norm.kept_axes), prod(shape[axis] for axis in norm.inner.axes)
    if block.part:
        return Piece(whole, (*[slice(None)] * kept, ...), kept, block.part)
    return Piece(whole, block.index(norm.order), kept)


def cut_pieces(shape: tuple[int, ...], itemsize: int, norm: MixedNorm, block: Block) -> Iterator[Piece]:
    """Cut a block into pieces of a bounded size, in C order.

    Along its kept axes, the outermost in memory first; a whole fibre is never cut, however long it is. A part of all
    fibres is cut along them, where their chunks end.

    Args:
        shape: of the tensor.
        itemsize: bytes of an element.
        norm: mixed norm bound to its axes.
        block: the block.
    """
    piece = as_piece(shape, norm, block)
    if piece.elements:
        start, stop = piece.elements
        step = max(1, _CHUNKED_ELEMENTS * piece.whole // max(1, prod(shape)) // CHUNK) * CHUNK
        for elements in pairwise([*range(start, stop, step), stop]):
            yield replace(piece, elements=elements)
        return
    ranges = [(0, length) for length in shape]
    if block.axis is not None:
        ranges[block.axis] = (block.start, block.stop)
    inner = norm.inner.norm
    limit = inner.piece_bytes // itemsize
    bounds = _Bounds(limit, inner.widening * limit, _RUN_BYTES // itemsize)
    for cut in _cut(ranges, sorted(norm.kept_axes), bounds):
        # The ellipsis makes a view of an array without axes too, where there would be a copy, and nobody to see it.
        yield replace(piece, index=(*(slice(*cut[axis]) for axis in norm.order), ...))


@dataclass(frozen=True)
class _Bounds:
    """How large a piece may be, how large for the sake of its runs, and how long those should be, in elements."""

    size: int
    widened: int
    run: int


def _cut(ranges: list[tuple[int, int]], kept: list[int], bounds: _Bounds) -> Iterator[list[tuple[int, int]]]:
    size = prod(stop - start for start, stop in ranges)
    if size <= bounds.size or not kept:
        yield ranges
        return
    axis, *rest = kept
    start, stop = ranges[axis]
    behind = prod(stop - start for start, stop in ranges[axis + 1 :])  # neighbours, for later axes are cut later
    wide = min(-(-bounds.run // behind), bounds.widened * (stop - start) // size)
    step = max(1, bounds.size * (stop - start) // size, wide)
    for at in range(start, stop, step):
        part = [*ranges]
        part[axis] = (at, min(at + step, stop))
        yield from _cut(part, rest, bounds)


def _stretch(array: Array, kept: int, start: int, stop: int) -> Array:
    """Elements of all fibres, whose axes are taken as one; where no single stride walks them, a copy of little more."""
    shape = array.shape[:kept]
    try:
        return array.reshape((*shape, -1), copy=False)[..., start:stop]
    except ValueError:
        axis = next(axis for axis in range(kept, array.ndim) if array.shape[axis] > 1)
        row = prod(array.shape[axis + 1 :])
        first, last = start // row, -(-stop // row)
        index: Index = (*[slice(None)] * axis, slice(first, last), ...)
        rows = array[index]
        return rows.reshape((*shape, -1))[..., start - first * row : stop - first * row]


def _scatter(fibres: Array, kept: int, start: int, values: Array) -> None:
    """Write elements from ``start`` on of all fibres, whose axes are taken as one, where no stride walks them."""
    for at in range(0, values.shape[-1], _SCATTERED):
        here = values[..., at : at + _SCATTERED]
        index = np.unravel_index(np.arange(start + at, start + at + here.shape[-1]), fibres.shape[kept:])
        fibres[(..., *index)] = here  # type: ignore[index]
