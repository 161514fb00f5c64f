"""Fibres whose elements are neighbours in memory, one after the other: what is the same for every norm.

A norm gives a device function for a chunk, and one for a fibre; around it goes the walk over fibres, made here.
"""

import numpy as np

from normtree_kernels.compiled.elements import narrow, no_bound, zero_magnitudes
from normtree_kernels.compiled.jit import Compiled, device, kernel_of
from normtree_kernels.compiled.lanes import CHUNK, LANES
from normtree_kernels.compiled.lines import LINE_BYTES, address, before_line, clip_lines, drain, fill
from normtree_kernels.compiled.vectors import store, zeros
from normtree_kernels.dtypes import Array, Float64Array, Int64Array


def up(module: str, chunk_norm: Compiled, join: Compiled) -> Compiled:
    """Make the kernel that writes the norms of fibres.

    Args:
        module: ``__name__`` of the norm's module.
        chunk_norm: device function ``(x)``: the norm of at most 1024 elements.
        join: device function ``(partials)``: the norm of at most 1024 chunks, from theirs.

    Returns:
        Kernel ``(x, offsets, length, v)``: v[j] is the norm of the ``length`` elements from the j-th offset in x; of
        its chunks, and then of those norms, in the fixed shape.
    """

    @device
    def fibre_norm(x: Array, partials: Float64Array) -> float:
        if x.size <= CHUNK:
            whole: float = chunk_norm(x)
            return whole
        count = 0
        for start in range(0, x.size, CHUNK):
            partials[count] = chunk_norm(x[start : min(start + CHUNK, x.size)])
            count += 1
        while count > 1:
            chunks = 0
            for start in range(0, count, CHUNK):
                partials[chunks] = join(partials[start : min(start + CHUNK, count)])
                chunks += 1
            count = chunks
        total: float = partials[0]
        return total

    @kernel_of(module, "rows_up")
    def rows_up(x: Array, offsets: Int64Array, length: int, v: Float64Array) -> None:
        partials = np.empty(length // CHUNK + 1)
        for j in range(offsets.size):
            v[j] = fibre_norm(x[offsets[j] : offsets[j] + length], partials)

    return rows_up


def down(module: str, project: Compiled) -> Compiled:
    """Make the kernel that projects fibres, or parts of them.

    Args:
        module: ``__name__`` of the norm's module.
        project: device function ``(x, first, length, whole, v, u, limits, partials, out, at, streaming)``: projects
            ``length`` elements from ``x[first:]``, of a fibre of ``whole`` elements and norm v, onto the ball of radius
            u < v, to ``out[at:]``. ``limits`` and ``partials`` are room: a line of bounds, a float64 for each chunk.

    Returns:
        Kernel ``(x, offsets, length, whole, v, u, out, out_offsets, streaming)``. Where ``streaming``, results are
        written past the caches. They go forwards, as the up-sweep went: what it left in a cache is worth less than
        streams that run on.
    """

    @kernel_of(module, "rows_down")
    def rows_down(
        x: Array,
        offsets: Int64Array,
        length: int,
        whole: int,
        v: Float64Array,
        u: Float64Array,
        out: Array,
        out_offsets: Int64Array,
        streaming: bool,
    ) -> None:
        limits, partials = zero_magnitudes(x, LINE_BYTES), np.empty(length // CHUNK + 1)
        for j in range(offsets.size):
            first, at = offsets[j], out_offsets[j]
            if not settled(x, first, length, v[j], u[j], limits, out, at, streaming):
                project(x, first, length, whole, v[j], u[j], limits, partials, out, at, streaming)
        if streaming:
            drain()

    return rows_down


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
