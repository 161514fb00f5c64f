"""Fibres that lie side by side: each row of memory holds one element of many fibres."""

import numpy as np

from normtree_kernels import l1, l2, linf
from normtree_kernels.codes import L1, L2, LINF
from normtree_kernels.dtypes import Array, Float64Array, Int64Array
from normtree_kernels.elements import as_element, narrow, widen, zero_magnitudes
from normtree_kernels.jit import device, kernel
from normtree_kernels.lanes import CHUNK, GROUPS, LANES
from normtree_kernels.lines import LINE_BYTES, clip_lines, drain
from normtree_kernels.transpose import pack_columns

TILE = 16384  # columns swept together: whole rows stream best, while their running sums stay in the second-level cache
PANEL = 32  # columns packed together for their thresholds
PANEL_ELEMENTS = 1 << 17
PAD = 32
TOGETHER = 4  # rows mapped side by side


@device
def chunk_norms(
    code: int, x: Array, first: int, count: int, step: int, group: Float64Array, totals: Float64Array
) -> None:
    """Norms (l1, l2) of one chunk of each column, added in the order that lanes.py fixes; ``group`` is room."""
    width = totals.size
    for j in range(width):
        totals[j] = 0.0
    for g in range(min(GROUPS, count)):
        for j in range(width):
            group[j] = 0.0
        for start in range(g, min(LANES, count), GROUPS):
            number = (count - start + LANES - 1) // LANES
            if code == L1:
                l1.add_rows(x, first + start * step, number, LANES * step, width, group)
            else:
                l2.add_rows(x, first + start * step, number, LANES * step, width, group)
        l1.add(group, totals)
    if code == L2:
        for j in range(width):
            totals[j] = l2.length(totals[j], x, first + j, step, count)


@device
def add_active_rows(
    x: Array, first: int, count: int, step: int, levels: Float64Array, sums: Float64Array, counts: Int64Array
) -> None:
    """Add ``count`` rows' magnitudes above their columns' levels, in order."""
    width = sums.size
    i = 0
    while i + 3 < count:
        a, b, c, d = first + i * step, first + (i + 1) * step, first + (i + 2) * step, first + (i + 3) * step
        rows = x[a : a + width], x[b : b + width], x[c : c + width], x[d : d + width]
        l1.add_four_active_rows(rows[0], rows[1], rows[2], rows[3], levels, sums, counts)
        i += 4
    while i < count:
        at = first + i * step
        l1.add_active_row(x[at : at + width], levels, sums, counts)
        i += 1


@device
def active_tile(
    x: Array, first: int, length: int, step: int, levels: Float64Array, sums: Float64Array, counts: Int64Array
) -> None:
    """Sums and numbers of the magnitudes above their levels, for the columns of one tile."""
    width = sums.size
    chunks = (length + CHUNK - 1) // CHUNK
    partials = np.zeros(chunks * width)
    lane, group = np.empty(width), np.empty(width)
    for j in range(width):
        counts[j] = 0
    for c in range(chunks):
        size, at = min(CHUNK, length - c * CHUNK), first + c * CHUNK * step
        for g in range(min(GROUPS, size)):
            for j in range(width):
                group[j] = 0.0
            for start in range(g, min(LANES, size), GROUPS):
                for j in range(width):
                    lane[j] = 0.0
                number = (size - start + LANES - 1) // LANES
                add_active_rows(x, at + start * step, number, LANES * step, levels, lane, counts)
                l1.add(lane, group)
            l1.add(group, partials[c * width : (c + 1) * width])
    tile_sums(L1, partials, 0, chunks, width, sums)


@kernel
def active(
    x: Array,
    offsets: Int64Array,
    length: int,
    step: int,
    width: int,
    mu: Float64Array,
    sums: Float64Array,
    counts: Int64Array,
) -> None:
    """Write the sum and the number of each column's magnitudes above its level mu."""
    for k in range(offsets.size):
        for j in range(0, width, TILE):
            start, stop = k * width + j, k * width + min(j + TILE, width)
            active_tile(x, offsets[k] + j, length, step, mu[start:stop], sums[start:stop], counts[start:stop])


@device
def tile_sums(code: int, x: Array, first: int, length: int, step: int, v: Float64Array) -> None:
    """Norms (l1, l2) of the columns of one tile: of their chunks, then of those norms."""
    width = v.size
    count = (length + CHUNK - 1) // CHUNK
    partials, group = np.empty(count * width), np.empty(width)
    for c in range(count):
        size = min(CHUNK, length - c * CHUNK)
        chunk_norms(code, x, first + c * CHUNK * step, size, step, group, partials[c * width : (c + 1) * width])
    while count > 1:
        chunks = (count + CHUNK - 1) // CHUNK
        for c in range(chunks):
            size = min(CHUNK, count - c * CHUNK)
            chunk_norms(code, partials, c * CHUNK * width, size, width, group, v)
            for j in range(width):
                partials[c * width + j] = v[j]
        count = chunks
    for j in range(width):
        v[j] = partials[j]


@device
def tile_largest(x: Array, first: int, length: int, step: int, v: Float64Array) -> None:
    """Largest magnitudes of the columns of one tile."""
    width = v.size
    largest = zero_magnitudes(x, width)
    i = 0
    while i + 3 < length:
        a = first + i * step
        b, c, d = a + step, a + 2 * step, a + 3 * step
        linf.add_four_rows(x[a : a + width], x[b : b + width], x[c : c + width], x[d : d + width], largest)
        i += 4
    while i < length:
        linf.add_row(x[first + i * step : first + i * step + width], largest)
        i += 1
    for j in range(width):
        v[j] = widen(as_element(largest[j], x[0]))


@kernel
def up(code: int, x: Array, offsets: Int64Array, length: int, step: int, width: int, v: Float64Array) -> None:
    """Write to v the norms of ``width`` columns from each offset; elements of a column lie ``step`` apart."""
    for k in range(offsets.size):
        for j in range(0, width, TILE):
            tile = v[k * width + j : k * width + min(j + TILE, width)]
            if code == LINF:
                tile_largest(x, offsets[k] + j, length, step, tile)
            else:
                tile_sums(code, x, offsets[k] + j, length, step, tile)


@kernel
def thresholds(
    x: Array,
    offsets: Int64Array,
    length: int,
    step: int,
    width: int,
    v: Float64Array,
    u: Float64Array,
    taus: Float64Array,
    lows: Float64Array,
    powers: Float64Array,
) -> None:
    """Write the columns' l1 thresholds, -1 inside the ball and infinity where a column vanishes, and their grids.

    They are tau - low, as `normtree_kernels.l1` has them.

    A few columns at a time are packed to rows, to be read again and again from the cache.
    """
    panel = max(1, min(PANEL, PANEL_ELEMENTS // length))
    room = length + PAD  # so that the same element of neighbouring columns falls into different cache sets
    packed, partials = np.empty(panel * room, x.dtype), np.empty(length // CHUNK + 1)
    for o in range(offsets.size):
        for start in range(0, width, panel):
            count = min(panel, width - start)
            pack_columns(x, offsets[o] + start, length, step, count, packed, room)
            for k in range(count):
                j = o * width + start + k
                lows[j], powers[j] = 0.0, l1.grid(u[j])
                if v[j] <= u[j]:
                    taus[j] = -1.0
                elif narrow(u[j], x[0]) == narrow(0.0, x[0]):
                    taus[j] = np.inf
                else:
                    taus[j], lows[j] = l1.threshold(packed[k * room : k * room + length], v[j], u[j], partials)


@kernel
def shrink(
    x: Array,
    offsets: Int64Array,
    length: int,
    step: int,
    width: int,
    taus: Float64Array,
    lows: Float64Array,
    powers: Float64Array,
    out: Array,
    out_offsets: Int64Array,
    out_step: int,
    streaming: bool,
) -> None:
    """Soft-threshold each column, row after row of memory.

    Where ``streaming``, rows are written past the caches: here, in `scale` and in `clip`.
    """
    together = rows_together(out, out_step, streaming)
    for k in range(offsets.size):
        here = slice(k * width, (k + 1) * width)
        levels, lowered, grids = taus[here], lows[here], powers[here]
        for i in range(0, length, together):
            at, to = offsets[k] + i * step, out_offsets[k] + i * out_step
            count = min(together, length - i)
            l1.shrink_rows(x, at, step, levels, lowered, grids, out, to, out_step, count, streaming)
    if streaming:
        drain()


@kernel
def scale(
    x: Array,
    offsets: Int64Array,
    length: int,
    step: int,
    width: int,
    v: Float64Array,
    u: Float64Array,
    out: Array,
    out_offsets: Int64Array,
    out_step: int,
    streaming: bool,
) -> None:
    """Project each column of l2 norm v onto the ball of radius u, row after row of memory.

    Columns whose factor would lose digits are copied, and then scaled one by one where they lie in the result.
    """
    factors, apart = np.empty(v.size), np.zeros(v.size, np.bool_)
    for j in range(v.size):
        inside, vanishes = v[j] <= u[j], narrow(u[j], x[0]) == narrow(0.0, x[0]) or l2.is_lost(u[j], length)
        factors[j] = 1.0 if inside else 0.0 if vanishes else l2.factor(v[j], u[j])
        if not inside and not vanishes and factors[j] == 0.0:
            factors[j], apart[j] = 1.0, True
    together = rows_together(out, out_step, streaming)
    for k in range(offsets.size):
        scales = factors[k * width : (k + 1) * width]
        for i in range(0, length, together):
            at, to = offsets[k] + i * step, out_offsets[k] + i * out_step
            count = min(together, length - i)
            l2.scale_rows(x, at, step, scales, out, to, out_step, count, streaming)
    if streaming:
        drain()
    for j in range(v.size):
        if apart[j]:
            at = out_offsets[j // width] + j % width
            l2.scale_apart(out, at, out_step, length, v[j], u[j], out, at, out_step)


@kernel
def clip(
    x: Array,
    offsets: Int64Array,
    length: int,
    step: int,
    width: int,
    v: Float64Array,
    u: Float64Array,
    out: Array,
    out_offsets: Int64Array,
    out_step: int,
    streaming: bool,
) -> None:
    """Project each column of linf norm v onto the ball of radius u, row after row of memory."""
    bounds = zero_magnitudes(x, width)
    for k in range(offsets.size):
        for j in range(width):
            bounds[j] = linf.bound(v[k * width + j], u[k * width + j], x[0])
        for i in range(length):
            at, to = offsets[k] + i * step, out_offsets[k] + i * out_step
            clip_lines(x, at, bounds, 1, out, to, width, streaming)
    if streaming:
        drain()


@device
def rows_together(out: Array, out_step: int, streaming: bool) -> int:
    """Number of rows to map side by side: one alone where lines are written and begin elsewhere in the next row."""
    return TOGETHER if not streaming or out_step * out.itemsize % LINE_BYTES == 0 else 1
