"""Fibres that lie side by side, so that each row of memory holds one element of many: the same for every norm."""

import numpy as np

from normtree_kernels.compiled.jit import Compiled, device, kernel_of
from normtree_kernels.compiled.lanes import CHUNK, GROUPS, LANES
from normtree_kernels.compiled.lines import LINE_BYTES
from normtree_kernels.dtypes import Array, Float64Array, Int64Array

TILE = 16384  # columns swept together: whole rows stream best, while their running sums stay in the second-level cache
TOGETHER = 4  # rows mapped side by side


def up(module: str, tile_norms: Compiled) -> Compiled:
    """Make the kernel that writes the norms of columns, tile by tile.

    Args:
        module: ``__name__`` of the norm's module.
        tile_norms: device function ``(x, first, length, step, v)``: writes the norms of as many columns as v has, from
            ``x[first:]`` on, whose elements lie ``step`` apart.

    Returns:
        Kernel ``(x, offsets, length, step, width, v)``: ``width`` columns from each offset.
    """

    @kernel_of(module, "columns_up")
    def columns_up(x: Array, offsets: Int64Array, length: int, step: int, width: int, v: Float64Array) -> None:
        for k in range(offsets.size):
            for j in range(0, width, TILE):
                tile = v[k * width + j : k * width + min(j + TILE, width)]
                tile_norms(x, offsets[k] + j, length, step, tile)

    return columns_up


def summed(add_rows: Compiled, finish: Compiled) -> Compiled:
    """Make the norms of a tile's columns where they are sums of terms: of chunks, and then of those norms.

    Args:
        add_rows: device function ``(x, first, count, step, width, sums)``: adds to columns' sums what the terms of
            ``count`` rows that lie ``step`` apart, in order, sum to.
        finish: device function ``(total, x, first, step, count)``: a chunk's norm from its sum.

    Returns:
        Device function, as `up` wants it.
    """

    @device
    def chunk_norms(x: Array, first: int, count: int, step: int, group: Float64Array, totals: Float64Array) -> None:
        """Add terms in the order that lanes.py fixes; ``group`` is room."""
        width = totals.size
        for j in range(width):
            totals[j] = 0.0
        for g in range(min(GROUPS, count)):
            for j in range(width):
                group[j] = 0.0
            for start in range(g, min(LANES, count), GROUPS):
                number = (count - start + LANES - 1) // LANES
                add_rows(x, first + start * step, number, LANES * step, width, group)
            add(group, totals)
        for j in range(width):
            totals[j] = finish(totals[j], x, first + j, step, count)

    @device
    def tile_norms(x: Array, first: int, length: int, step: int, v: Float64Array) -> None:
        width = v.size
        count = (length + CHUNK - 1) // CHUNK
        partials, group = np.empty(count * width), np.empty(width)
        for c in range(count):
            size = min(CHUNK, length - c * CHUNK)
            chunk_norms(x, first + c * CHUNK * step, size, step, group, partials[c * width : (c + 1) * width])
        while count > 1:
            chunks = (count + CHUNK - 1) // CHUNK
            for c in range(chunks):
                size = min(CHUNK, count - c * CHUNK)
                chunk_norms(partials, c * CHUNK * width, size, width, group, v)
                for j in range(width):
                    partials[c * width + j] = v[j]
            count = chunks
        for j in range(width):
            v[j] = partials[j]

    return tile_norms


@device
def add(terms: Float64Array, sums: Float64Array) -> None:
    """Add terms to sums."""
    for j in range(sums.size):
        sums[j] += terms[j]


@device
def rows_together(out: Array, out_step: int, streaming: bool) -> int:
    """Number of rows to map side by side: one alone where lines are written and begin elsewhere in the next row."""
    return TOGETHER if not streaming or out_step * out.itemsize % LINE_BYTES == 0 else 1
