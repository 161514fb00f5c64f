"""Sums and numbers of the magnitudes above a level for each fibre: what a search for levels asks for."""

import numpy as np

from normtree_kernels.compiled.elements import widen
from normtree_kernels.compiled.jit import device, kernel
from normtree_kernels.compiled.lanes import CHUNK, GROUPS, LANES
from normtree_kernels.compiled.vectors import sizes, spread, take, total, where_above, zeros
from normtree_kernels.dtypes import Array, Float64Array, Int64Array
from normtree_kernels.sweeps import columns
from normtree_kernels.sweeps.sums import column_sums, fold_chunks


@device
def chunk_active(x: Array, tau: float) -> tuple[float, float]:
    """Sum and number of the magnitudes above tau, of at most 1024 contiguous elements."""
    sums, counts, nothing, one, level = zeros(), zeros(), zeros(), spread(1.0), spread(tau)
    for i in range(0, x.size, LANES):
        size = sizes(take(x, i))
        sums = sums + where_above(size, level, size, nothing)
        counts = counts + where_above(size, level, one, nothing)
    return total(sums), total(counts)


@device
def active_sum(x: Array, tau: float, partials: Float64Array) -> tuple[float, int]:
    """Sum and number of the magnitudes above tau."""
    active = 0.0
    chunks = 0
    for start in range(0, x.size, CHUNK):
        partials[chunks], count = chunk_active(x[start : min(start + CHUNK, x.size)], tau)
        active += count
        chunks += 1
    return fold_chunks(partials, chunks), int(active)


@kernel
def rows_active(
    x: Array, offsets: Int64Array, length: int, mu: Float64Array, sums: Float64Array, counts: Int64Array
) -> None:
    """Write the sum and the number of each fibre's magnitudes above its level mu."""
    partials = np.empty(length // CHUNK + 1)
    for j in range(offsets.size):
        sums[j], counts[j] = active_sum(x[offsets[j] : offsets[j] + length], mu[j], partials)


@device
def add_row(row: Array, levels: Float64Array, sums: Float64Array, counts: Int64Array) -> None:
    """Add a row's magnitudes above their columns' levels to the columns' sums, and count them."""
    for j in range(sums.size):
        size = abs(widen(row[j]))
        sums[j] += size if size > levels[j] else 0.0
        counts[j] += size > levels[j]


@device
def add_four_rows(
    a: Array, b: Array, c: Array, d: Array, levels: Float64Array, sums: Float64Array, counts: Int64Array
) -> None:
    """Add four rows' magnitudes above their columns' levels, one after the other, in one pass over the sums."""
    for j in range(sums.size):
        level = levels[j]
        p, q, r, s = abs(widen(a[j])), abs(widen(b[j])), abs(widen(c[j])), abs(widen(d[j]))
        total = (sums[j] + (p if p > level else 0.0)) + (q if q > level else 0.0)
        sums[j] = (total + (r if r > level else 0.0)) + (s if s > level else 0.0)
        counts[j] += (p > level) + (q > level) + (r > level) + (s > level)


@device
def add_rows(
    x: Array, first: int, count: int, step: int, levels: Float64Array, sums: Float64Array, counts: Int64Array
) -> None:
    """Add ``count`` rows' magnitudes above their columns' levels, in order."""
    width = sums.size
    i = 0
    while i + 3 < count:
        a, b, c, d = first + i * step, first + (i + 1) * step, first + (i + 2) * step, first + (i + 3) * step
        rows = x[a : a + width], x[b : b + width], x[c : c + width], x[d : d + width]
        add_four_rows(rows[0], rows[1], rows[2], rows[3], levels, sums, counts)
        i += 4
    while i < count:
        at = first + i * step
        add_row(x[at : at + width], levels, sums, counts)
        i += 1


@device
def tile(
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
                add_rows(x, at + start * step, number, LANES * step, levels, lane, counts)
                columns.add(lane, group)
            columns.add(group, partials[c * width : (c + 1) * width])
    column_sums(partials, 0, chunks, width, sums)


@kernel
def columns_active(
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
        for j in range(0, width, columns.TILE):
            start, stop = k * width + j, k * width + min(j + columns.TILE, width)
            tile(x, offsets[k] + j, length, step, mu[start:stop], sums[start:stop], counts[start:stop])
