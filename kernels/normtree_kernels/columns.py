"""Fibres that lie side by side: each row of memory holds one element of many fibres."""

import numpy as np

from normtree_kernels import l1, l2, linf
from normtree_kernels.codes import L1, L2, LINF
from normtree_kernels.dtypes import Array, Float64Array, from_magnitude, greatest, narrow, zero_magnitudes
from normtree_kernels.jit import device, kernel
from normtree_kernels.lanes import CHUNK, GROUPS, LANES
from normtree_kernels.rows import IntArray

TILE = 512  # columns swept together: their running sums stay in the first-level cache


@device
def add_row(code: int, row: Array, sums: Float64Array) -> None:
    """Add a row of elements to the sums of their columns."""
    if code == L1:
        l1.add_row(row, sums)
    else:
        l2.add_row(row, sums)


@device
def chunk_norms(code: int, x: Array, first: int, count: int, step: int, totals: Float64Array) -> None:
    """Norms (l1, l2) of one chunk of each column, added in the order that lanes.py fixes."""
    lane, group, scratch = np.empty(totals.size), np.empty(totals.size), np.empty(LANES)
    totals[:] = 0.0
    for g in range(min(GROUPS, count)):
        group[:] = 0.0
        for start in range(g, min(LANES, count), GROUPS):
            lane[:] = 0.0
            for i in range(start, count, LANES):
                add_row(code, x[first + i * step : first + i * step + totals.size], lane)
            group += lane
        totals += group
    if code == L2:
        for j in range(totals.size):
            totals[j] = l2.length(totals[j], x, first + j, step, count, scratch)


@device
def tile_sums(code: int, x: Array, first: int, length: int, step: int, v: Float64Array) -> None:
    """Norms (l1, l2) of the columns of one tile: of their chunks, then of those norms."""
    width = v.size
    count = (length + CHUNK - 1) // CHUNK
    partials = np.empty(count * width)
    for c in range(count):
        size = min(CHUNK, length - c * CHUNK)
        chunk_norms(code, x, first + c * CHUNK * step, size, step, partials[c * width : (c + 1) * width])
    while count > 1:
        chunks = (count + CHUNK - 1) // CHUNK
        for c in range(chunks):
            size = min(CHUNK, count - c * CHUNK)
            chunk_norms(code, partials, c * CHUNK * width, size, width, v)
            partials[c * width : (c + 1) * width] = v
        count = chunks
    v[:] = partials[:width]


@device
def tile_largest(x: Array, first: int, length: int, step: int, v: Float64Array) -> None:
    """Largest magnitudes of the columns of one tile."""
    largest = zero_magnitudes(x, v.size)
    for i in range(length):
        linf.add_row(x[first + i * step : first + i * step + v.size], largest)
    for j in range(v.size):
        v[j] = from_magnitude(largest[j], x[0])


@kernel
def up(code: int, x: Array, offsets: IntArray, length: int, step: int, width: int, v: Float64Array) -> None:
    """Write to v the norms of ``width`` columns from each offset; elements of a column lie ``step`` apart."""
    for k in range(offsets.size):
        for j in range(0, width, TILE):
            tile = v[k * width + j : k * width + min(j + TILE, width)]
            if code == LINF:
                tile_largest(x, offsets[k] + j, length, step, tile)
            else:
                tile_sums(code, x, offsets[k] + j, length, step, tile)


@device
def clip_tile(
    x: Array, first: int, length: int, step: int, v: Float64Array, u: Float64Array,
    out: Array, out_first: int, out_step: int,
) -> None:  # fmt: skip
    """Clip the columns of one tile at their radii."""
    bounds = np.empty(v.size, x.dtype)
    for j in range(v.size):
        bounds[j] = greatest(x[0]) if v[j] <= u[j] else narrow(u[j], x[0])
    for i in range(length):
        at, to = first + i * step, out_first + i * out_step
        linf.clip_row(x[at : at + v.size], bounds, out[to : to + v.size])


@device
def scale_tile(
    x: Array, first: int, length: int, step: int, v: Float64Array, u: Float64Array,
    out: Array, out_first: int, out_step: int,
) -> None:  # fmt: skip
    """Scale the columns of one tile to their radii."""
    factors = np.empty(v.size)
    for j in range(v.size):
        vanishes = narrow(u[j], x[0]) == 0.0
        factors[j] = 1.0 if v[j] <= u[j] else 0.0 if vanishes else l2.factor(v[j], u[j])
    for i in range(length):
        at, to = first + i * step, out_first + i * out_step
        l2.scale_row(x[at : at + v.size], factors, out[to : to + v.size])


@kernel
def down(
    code: int,
    x: Array,
    offsets: IntArray,
    length: int,
    step: int,
    width: int,
    v: Float64Array,
    u: Float64Array,
    out: Array,
    out_offsets: IntArray,
    out_step: int,
) -> None:
    """Project each column of norm v onto the ball (l2, linf) of radius u."""
    for k in range(offsets.size):
        for j in range(0, width, TILE):
            start, stop = k * width + j, k * width + min(j + TILE, width)
            at, to = offsets[k] + j, out_offsets[k] + j
            if code == LINF:
                clip_tile(x, at, length, step, v[start:stop], u[start:stop], out, to, out_step)
            else:
                scale_tile(x, at, length, step, v[start:stop], u[start:stop], out, to, out_step)
