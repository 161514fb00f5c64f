"""Pieces: a block's work cut so small that a leaf looks up, about every 50 ms at most, whether it is still wanted."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from types import EllipsisType

import numpy as np

from normtree_kernels.blocks import Block
from normtree_kernels.norms import MixedNorm

# What one thread sweeps in a few tens of milliseconds: thresholds of l1 fibres take longer than clipping and scaling.
_PIECE_BYTES = {"l1": 1 << 24, "l2": 1 << 26, "linf": 1 << 26}
# A piece of columns that is narrower than a run of so many bytes takes up to twice as long, for every row is another
# page; it may be so many times as large as others to be as wide. Thresholds of l1 columns gain nothing by that.
_RUN_BYTES = 1 << 14
_WIDENED = {"l1": 1, "l2": 4, "linf": 4}


@dataclass(frozen=True)
class Piece:
    """A part of a block that holds whole fibres.

    Args:
        part: cuts it out of the tensor, whose axes are in the norm's order.
        kept: cuts its fibres out of an array of the kept axes in that order.
    """

    part: tuple[slice | EllipsisType, ...]
    kept: tuple[slice | EllipsisType, ...]


def cut_pieces(shape: tuple[int, ...], dtype: str, norm: MixedNorm, block: Block) -> Iterator[Piece]:
    """Cut a block along its kept axes, the outermost in memory first, into pieces of a bounded size; in C order.

    A fibre is never cut, however long it is.

    Args:
        shape: of the tensor.
        dtype: of its elements.
        norm: mixed norm bound to its axes.
        block: the block.
    """
    ranges = [(0, length) for length in shape]
    if block.axis is not None:
        ranges[block.axis] = (block.start, block.stop)
    itemsize = np.dtype(dtype).itemsize
    limit = _PIECE_BYTES[norm.inner.norm] // itemsize
    bounds = _Bounds(limit, _WIDENED[norm.inner.norm] * limit, _RUN_BYTES // itemsize)
    for piece in _cut(ranges, sorted(norm.kept_axes), bounds):
        index = tuple(slice(*piece[axis]) for axis in norm.order)
        # The ellipsis makes a view of an array without axes too, where there would be a copy, and nobody to see it.
        yield Piece((*index, ...), (*index[: len(norm.kept_axes)], ...))


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
