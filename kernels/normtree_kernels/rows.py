"""Fibres whose elements are neighbours in memory: one fibre after the other."""

import numpy as np

from normtree_kernels import l1, l2, linf
from normtree_kernels.codes import L1, L2
from normtree_kernels.dtypes import Array, Float64Array, Int64Array
from normtree_kernels.elements import narrow, no_bound, zero_magnitudes
from normtree_kernels.jit import device, kernel
from normtree_kernels.lanes import CHUNK, LANES
from normtree_kernels.lines import LINE_BYTES, address, before_line, clip_lines, drain
from normtree_kernels.vectors import store, zeros


@device
def chunk_norm(code: int, x: Array) -> float:
    """Norm of one chunk."""
    if code == L1:
        return l1.chunk_norm(x)
    if code == L2:
        return l2.chunk_norm(x)
    return linf.chunk_norm(x)


@device
def fibre_norm(code: int, x: Array, partials: Float64Array) -> float:
    """Norm of a fibre: norms of its chunks, then the norm of those, in the fixed shape."""
    if x.size <= CHUNK:
        return chunk_norm(code, x)
    count = 0
    for start in range(0, x.size, CHUNK):
        partials[count] = chunk_norm(code, x[start : min(start + CHUNK, x.size)])
        count += 1
    while count > 1:
        chunks = 0
        for start in range(0, count, CHUNK):
            partials[chunks] = chunk_norm(code, partials[start : min(start + CHUNK, count)])
            chunks += 1
        count = chunks
    total: float = partials[0]
    return total


@kernel
def up(code: int, x: Array, offsets: Int64Array, length: int, v: Float64Array) -> None:
    """Write to v the norm of each fibre, ``length`` elements from its offset in x."""
    partials = np.empty(length // CHUNK + 1)
    for j in range(offsets.size):
        v[j] = fibre_norm(code, x[offsets[j] : offsets[j] + length], partials)


@kernel
def active(
    x: Array, offsets: Int64Array, length: int, mu: Float64Array, sums: Float64Array, counts: Int64Array
) -> None:
    """Write the sum and the number of each fibre's magnitudes above its level mu."""
    partials = np.empty(length // CHUNK + 1)
    for j in range(offsets.size):
        sums[j], counts[j] = l1.active_sum(x[offsets[j] : offsets[j] + length], mu[j], partials)


@device
def copy(x: Array, out: Array) -> None:
    """Copy a fibre; by a plain loop, for a slice's assignment first copies what might overlap."""
    for i in range(x.size):
        out[i] = x[i]


@device
def clear(out: Array, nothing: float, streaming: bool) -> None:
    """Zero a fibre."""
    first = min(before_line(out, 0), out.size) if streaming else 0
    stop = out.size - (out.size - first) % LANES
    for i in range(first):
        out[i] = nothing
    for i in range(first, stop, LANES):
        store(zeros(), out, i, streaming)
    for i in range(stop, out.size):
        out[i] = nothing


@kernel
def down(
    code: int,
    x: Array,
    offsets: Int64Array,
    length: int,
    v: Float64Array,
    u: Float64Array,
    out: Array,
    out_offsets: Int64Array,
    streaming: bool,
) -> None:
    """Project each fibre of norm v onto the ball of radius u: copy, drop or map it.

    Those that vanish are not read again, and those that stay are left alone where x and out are the same memory.
    Where ``streaming``, results are written past the caches. Forwards, as the up-sweep went: what it left in a cache
    is worth less than streams that run on.
    """
    in_place = address(x) == address(out)
    limits = zero_magnitudes(x, LINE_BYTES)
    partials = np.empty(length // CHUNK + 1)
    nothing = narrow(0.0, x[0])
    for j in range(offsets.size):
        fibre = x[offsets[j] : offsets[j] + length]
        result = out[out_offsets[j] : out_offsets[j] + length]
        if v[j] <= u[j]:
            if streaming and not in_place:
                limits[:] = no_bound(x[0])
                clip_lines(x, offsets[j], limits, 0, out, out_offsets[j], length)
            elif not in_place:
                copy(fibre, result)
        elif narrow(u[j], x[0]) == nothing:
            clear(result, nothing, streaming)
        elif code == L1:
            tau = l1.threshold(fibre, v[j], u[j], partials)
            l1.shrink(fibre, tau, l1.grid(u[j]), result, streaming)
        elif code == L2:
            s = l2.factor(v[j], u[j])
            if s > 0.0:
                l2.scale(fibre, s, result, streaming)
            else:
                clear(result, nothing, streaming)
        elif streaming:
            limits[:] = linf.bound(v[j], u[j], x[0])
            clip_lines(x, offsets[j], limits, 0, out, out_offsets[j], length)
        else:
            linf.clip(fibre, linf.bound(v[j], u[j], x[0]), result)
    if streaming:
        drain()
