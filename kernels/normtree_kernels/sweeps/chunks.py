"""Parts of fibres: what a threshold leaves of each chunk, and soft-thresholding by a threshold given."""

import numpy as np

from normtree_kernels.compiled.elements import no_bound, zero_magnitudes
from normtree_kernels.compiled.jit import kernel
from normtree_kernels.compiled.lines import LINE_BYTES, clip_lines, drain, fill
from normtree_kernels.dtypes import Array, Float64Array, Int64Array
from normtree_kernels.sweeps import maxima, sweep, threshold
from normtree_kernels.sweeps.fibres import flat, flat_out, lay_out
from normtree_kernels.sweeps.rows import clear
from normtree_kernels.sweeps.sweep import read_only_line

INSIDE = -1.0
"""The threshold of a fibre that lies in its ball."""

NO_GRID = -1.0
NOBODY = np.nan
LARGEST = np.inf  # in place of a threshold: what is asked is the largest magnitude

Levels = tuple[Float64Array, Float64Array, Float64Array]
"""Of fibres: their thresholds as `normtree_kernels.sweeps.threshold` has them, tau and low, and their grids' powers."""


def excesses(chunks: Array, levels: Levels) -> tuple[Float64Array, Float64Array]:
    """Sum and count what lies above thresholds: what a search asks for.

    Args:
        chunks: chunks by fibres by elements, as `normtree_kernels.parts.part.Part.chunks` yields them. Not changed.
        levels: of the fibres, as `normtree_kernels.parts.rounds` asks for them. Tau is NaN where nobody asks, infinite
            where the largest magnitude is asked in place of a sum; the power is negative where sums are taken on no
            grid.

    Returns:
        Sums and numbers, chunks by fibres.

    Cost:
        Reads the chunks once.
    """
    fibres, offsets = _as_rows(chunks)
    tau, low, power = (read_only_line(np.broadcast_to(values, chunks.shape[:-1])) for values in levels)
    sums, counts = np.empty(chunks.shape[:-1]), np.empty(chunks.shape[:-1])
    _excesses(flat(fibres), offsets, chunks.shape[-1], tau, low, power, sums.reshape(-1), counts.reshape(-1))
    return sums, counts


def shrink(part: Array, levels: Levels, out: Array) -> None:
    """Soft-threshold a part of fibres.

    Args:
        part: fibres along its last axis. Not changed.
        levels: as `normtree_kernels.parts.rounds` found them. Tau is `INSIDE` for fibres that stay as they are,
            infinite for those that vanish; results lie on the grid.
        out: of the part's shape and type; overwritten.
    """
    fibres, offsets = _as_rows(part)
    target, out_offsets = _as_rows(out)
    if target is not out:
        target = np.empty(part.shape, fibres.dtype)
        _, out_offsets = _as_rows(target)
    streaming = sweep.streams(target, "rows", part.shape[-1])
    tau, low, power = map(read_only_line, levels)
    _shrink(flat(fibres), offsets, part.shape[-1], tau, low, power, flat_out(target), out_offsets, streaming)
    if target is not out:
        out[...] = target


def starts(samples: Float64Array, radii: Float64Array, size: int) -> Float64Array:
    """Where the search for each fibre's threshold starts.

    Args:
        samples: fibres by first elements.
        radii: of the fibres.
        size: elements in a fibre.
    """
    rows = np.ascontiguousarray(samples).view()  # they are read by lanes, whole
    rows.flags.writeable = False
    taus = np.empty(radii.size)
    _starts(rows, read_only_line(radii), size, taus)
    return taus


def _as_rows(array: Array) -> tuple[Array, Int64Array]:
    """The array, or where its last axis is not of neighbours a copy; and where in its memory each row begins."""
    if lay_out(array.ndim - 1, array).kind != "rows":
        array = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    offsets = np.zeros((), np.int64)
    for length, stride in zip(array.shape[:-1], array.strides[:-1], strict=True):
        offsets = np.add.outer(offsets, np.arange(length) * (stride // array.itemsize))
    return array, offsets.reshape(-1)


@kernel
def _excesses(
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
            sums[j], counts[j] = maxima.chunk_norm(chunk), 0.0
        elif powers[j] < 0.0:
            sums[j], counts[j] = threshold.chunk_excess(chunk, taus[j])
        else:
            sums[j], counts[j] = threshold.chunk_kept(chunk, taus[j], lows[j], powers[j])


@kernel
def _shrink(
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
            threshold.shrink(x, offsets[j], length, taus[j], lows[j], powers[j], out, out_offsets[j], streaming)
    if streaming:
        drain()


@kernel
def _starts(samples: Float64Array, rhos: Float64Array, size: int, taus: Float64Array) -> None:
    """Write where the search for each fibre's threshold starts, given the first elements of fibres of that size."""
    partials = np.empty(1)
    for j in range(rhos.size):
        taus[j] = threshold.sampled(samples[j], rhos[j], size, partials)
