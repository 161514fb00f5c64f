"""Kernels for parts of fibres: what a threshold leaves of each chunk, and soft-thresholding by a threshold given."""

import numpy as np

from normtree_kernels import l1, linf
from normtree_kernels.dtypes import Array, Float64Array, Int64Array
from normtree_kernels.elements import no_bound, zero_magnitudes
from normtree_kernels.jit import kernel
from normtree_kernels.lines import LINE_BYTES, clip_lines, drain, fill
from normtree_kernels.rows import clear


@kernel
def excesses(
    x: Array,
    offsets: Int64Array,
    length: int,
    taus: Float64Array,
    lows: Float64Array,
    powers: Float64Array,
    sums: Float64Array,
    counts: Float64Array,
) -> None:
    """Write the sum and the number of what lies above a chunk's threshold, on the grid of its power where that is >= 0.

    Nothing where the threshold is NaN: nobody asks for that fibre any more. And the largest magnitude, in place of the
    sum, where it is infinite.
    """
    for j in range(offsets.size):
        chunk = x[offsets[j] : offsets[j] + length]
        if np.isnan(taus[j]):
            sums[j] = counts[j] = 0.0
        elif taus[j] == np.inf:
            sums[j], counts[j] = linf.chunk_norm(chunk), 0.0
        elif powers[j] < 0.0:
            sums[j], counts[j] = l1.chunk_excess(chunk, taus[j])
        else:
            sums[j], counts[j] = l1.chunk_kept(chunk, taus[j], lows[j], powers[j])


@kernel
def shrink(
    x: Array,
    offsets: Int64Array,
    length: int,
    taus: Float64Array,
    lows: Float64Array,
    powers: Float64Array,
    out: Array,
    out_offsets: Int64Array,
    streaming: bool,
) -> None:
    """Soft-threshold parts of fibres: as they are for a negative threshold, nothing for an infinite one."""
    limits = zero_magnitudes(x, LINE_BYTES)
    fill(limits, no_bound(x[0]))
    for j in range(offsets.size):
        if taus[j] < 0.0:
            clip_lines(x, offsets[j], limits, 0, out, out_offsets[j], length, streaming)
        elif taus[j] == np.inf:
            clear(out, out_offsets[j], length, x[0], streaming)
        else:
            l1.shrink(x, offsets[j], length, taus[j], lows[j], powers[j], out, out_offsets[j], streaming)
    if streaming:
        drain()


@kernel
def start(samples: Float64Array, rhos: Float64Array, size: int, taus: Float64Array) -> None:
    """Write where the search for each fibre's threshold starts, given the first elements of fibres of that size."""
    partials = np.empty(1)
    for j in range(rhos.size):
        taus[j] = l1.sampled(samples[j], rhos[j], size, partials)
