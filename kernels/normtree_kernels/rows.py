"""Fibres whose elements are neighbours in memory: one fibre after the other."""

import numpy as np

from normtree_kernels import l1, l2, linf
from normtree_kernels.codes import L1, L2
from normtree_kernels.dtypes import Array, Float64Array, Int64Array
from normtree_kernels.elements import narrow, no_bound, zero_magnitudes
from normtree_kernels.jit import device, kernel
from normtree_kernels.lanes import CHUNK, LANES
from normtree_kernels.lines import LINE_BYTES, address, before_line, clip_lines, drain, fill
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
def settled(
    x: Array,
    first: int,
    length: int,
    norm: float,
    rho: float,
    limits: Array,
    out: Array,
    at: int,
    streaming: bool,
) -> bool:
    """Copy a fibre that lies in its ball, clear one that vanishes, and tell whether it was either.

    A fibre that vanishes is not read again, and one that stays is left alone where x and out are the same memory.
    """
    if norm <= rho:
        if address(x) != address(out):
            fill(limits, no_bound(x[0]))
            clip_lines(x, first, limits, 0, out, at, length, streaming)
        return True
    if narrow(rho, x[0]) == narrow(0.0, x[0]):
        clear(out, at, length, x[0], streaming)
        return True
    return False


@device
def clear(out: Array, at: int, count: int, like: float, streaming: bool) -> None:
    """Zero ``count`` elements of ``out[at:]``."""
    head = min(before_line(out, at), count) if streaming else 0
    stop = count - (count - head) % LANES
    for i in range(head):
        out[at + i] = narrow(0.0, like)
    for i in range(head, stop, LANES):
        store(zeros(), out, at + i, streaming)
    for i in range(stop, count):
        out[at + i] = narrow(0.0, like)


@kernel
def shrink(
    x: Array,
    offsets: Int64Array,
    length: int,
    v: Float64Array,
    u: Float64Array,
    out: Array,
    out_offsets: Int64Array,
    streaming: bool,
) -> None:
    """Project each fibre of l1 norm v onto the ball of radius u.

    Where ``streaming``, results are written past the caches: here, in `scale` and in `clip`. They go forwards, as the
    up-sweep went: what it left in a cache is worth less than streams that run on.
    """
    limits = zero_magnitudes(x, LINE_BYTES)
    partials = np.empty(length // CHUNK + 1)
    for j in range(offsets.size):
        if not settled(x, offsets[j], length, v[j], u[j], limits, out, out_offsets[j], streaming):
            tau, low = l1.threshold(x[offsets[j] : offsets[j] + length], v[j], u[j], partials)
            l1.shrink(x, offsets[j], length, tau, low, l1.grid(u[j]), out, out_offsets[j], streaming)
    if streaming:
        drain()


@kernel
def scale(
    x: Array,
    offsets: Int64Array,
    length: int,
    v: Float64Array,
    u: Float64Array,
    out: Array,
    out_offsets: Int64Array,
    streaming: bool,
) -> None:
    """Project each fibre of l2 norm v onto the ball of radius u."""
    limits = zero_magnitudes(x, LINE_BYTES)
    for j in range(offsets.size):
        if not settled(x, offsets[j], length, v[j], u[j], limits, out, out_offsets[j], streaming):
            s = l2.factor(v[j], u[j])
            if s > 0.0:
                l2.scale(x, offsets[j], length, s, out, out_offsets[j], streaming)
            elif l2.is_lost(u[j], length):
                clear(out, out_offsets[j], length, x[0], streaming)
            else:
                l2.scale_apart(x, offsets[j], 1, length, v[j], u[j], out, out_offsets[j], 1)
    if streaming:
        drain()


@kernel
def clip(
    x: Array,
    offsets: Int64Array,
    length: int,
    v: Float64Array,
    u: Float64Array,
    out: Array,
    out_offsets: Int64Array,
    streaming: bool,
) -> None:
    """Project each fibre of linf norm v onto the ball of radius u."""
    limits = zero_magnitudes(x, LINE_BYTES)
    for j in range(offsets.size):
        if not settled(x, offsets[j], length, v[j], u[j], limits, out, out_offsets[j], streaming):
            fill(limits, linf.bound(v[j], u[j], x[0]))
            clip_lines(x, offsets[j], limits, 0, out, out_offsets[j], length, streaming)
    if streaming:
        drain()
