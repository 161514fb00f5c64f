"""Sums of magnitudes, in the fixed shape of lanes.py."""

from normtree_kernels.compiled.elements import widen
from normtree_kernels.compiled.jit import device
from normtree_kernels.compiled.lanes import CHUNK, LANES
from normtree_kernels.compiled.vectors import load, sizes, store, take, total, zeros
from normtree_kernels.dtypes import Array, Float64Array
from normtree_kernels.sweeps import columns


@device
def chunk_sum(x: Array) -> float:
    """Sum of magnitudes of at most 1024 contiguous elements."""
    sums = zeros()
    for i in range(0, x.size, LANES):
        sums = sums + sizes(take(x, i))
    result: float = total(sums)
    return result


@device
def add_rows(x: Array, first: int, count: int, step: int, width: int, sums: Float64Array) -> None:
    """Add to columns' sums what the magnitudes of ``count`` rows that lie ``step`` apart, in order, sum to."""
    stop = width - width % LANES
    for i in range(first, first + stop, LANES):
        rows = zeros()
        for k in range(count):
            rows = rows + sizes(load(x, i + k * step))
        store(load(sums, i - first) + rows, sums, i - first, False)
    for i in range(stop, width):
        column = 0.0
        for k in range(count):
            column += abs(widen(x[first + k * step + i]))
        sums[i] += column


@device
def fold_chunks(partials: Float64Array, count: int) -> float:
    """Sum of ``count`` non-negative partial sums in the fixed shape; overwrites them."""
    while count > 1:
        chunks = 0
        for start in range(0, count, CHUNK):
            partials[chunks] = chunk_sum(partials[start : min(start + CHUNK, count)])
            chunks += 1
        count = chunks
    result: float = partials[0]
    return result


@device
def _as_it_is(sums: float, x: Array, first: int, step: int, count: int) -> float:
    """The norm of a chunk, from the sum of its magnitudes."""
    return sums


column_sums = columns.summed(add_rows, _as_it_is)
