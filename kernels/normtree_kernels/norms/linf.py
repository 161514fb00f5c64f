"""The l-infinity norm: largest magnitude; its ball is projected onto by clipping.

Projection of v on {x : max |x| <= rho}: x = sign(v) min(|v|, rho). All of it is done on bits, in the elements' own
width: as integers magnitudes order like the values, their maximum vectorises and keeps a NaN.
"""

import numpy as np

from normtree_kernels.compiled.elements import as_element, larger, magnitude, narrow, no_bound, widen, zero_magnitudes
from normtree_kernels.compiled.jit import device, kernel
from normtree_kernels.compiled.lines import clip_lines, drain, fill
from normtree_kernels.dtypes import Array, Float64Array, Int64Array
from normtree_kernels.sweeps import columns, rows
from normtree_kernels.sweeps.maxima import chunk_norm
from normtree_kernels.vector_norm import Norm


@device
def add_row(row: Array, largest: Array) -> None:
    """Raise the columns' largest magnitudes, as bits, by a row of elements."""
    for j in range(largest.size):
        largest[j] = larger(largest[j], magnitude(row[j]))


@device
def add_four_rows(a: Array, b: Array, c: Array, d: Array, largest: Array) -> None:
    """Raise the columns' largest magnitudes by four rows in one pass."""
    for j in range(largest.size):
        here = larger(larger(magnitude(a[j]), magnitude(b[j])), larger(magnitude(c[j]), magnitude(d[j])))
        largest[j] = larger(largest[j], here)


@device
def bound(norm: float, rho: float, like: float) -> int:
    """The bits at which a fibre of that norm is clipped; of no bound where it lies in the ball."""
    bits: int = no_bound(like) if norm <= rho else magnitude(narrow(rho, like))
    return bits


@device
def _tile_norms(x: Array, first: int, length: int, step: int, v: Float64Array) -> None:
    """Largest magnitudes of the columns of one tile."""
    width = v.size
    largest = zero_magnitudes(x, width)
    i = 0
    while i + 3 < length:
        a = first + i * step
        b, c, d = a + step, a + 2 * step, a + 3 * step
        add_four_rows(x[a : a + width], x[b : b + width], x[c : c + width], x[d : d + width], largest)
        i += 4
    while i < length:
        add_row(x[first + i * step : first + i * step + width], largest)
        i += 1
    for j in range(width):
        v[j] = widen(as_element(largest[j], x[0]))


@device
def _project(
    x: Array,
    first: int,
    length: int,
    whole: int,
    v: float,
    u: float,
    limits: Array,
    partials: Float64Array,
    out: Array,
    at: int,
    streaming: bool,
) -> None:
    """Clip a fibre, or a part of one."""
    fill(limits, bound(v, u, x[0]))
    clip_lines(x, first, limits, 0, out, at, length, streaming)


@kernel
def _clip_columns(
    x: Array,
    offsets: Int64Array,
    length: int,
    step: int,
    width: int,
    whole: int,
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
            bounds[j] = bound(v[k * width + j], u[k * width + j], x[0])
        for i in range(length):
            at, to = offsets[k] + i * step, out_offsets[k] + i * out_step
            clip_lines(x, at, bounds, 1, out, to, width, streaming)
    if streaming:
        drain()


class _Linf(Norm):
    """The largest magnitude."""

    name = "linf"
    dual = "l1"
    rows_up = staticmethod(rows.up(__name__, chunk_norm, chunk_norm))
    rows_down = staticmethod(rows.down(__name__, _project))
    columns_up = staticmethod(columns.up(__name__, _tile_norms))
    columns_down = staticmethod(_clip_columns)
    cuts_anywhere = True

    def growth(self, count: int) -> float:
        """One."""
        return 1.0

    def reference_norm(self, values: Float64Array) -> Float64Array:
        """The largest."""
        return np.asarray(values.max(axis=-1, initial=0.0))

    def reference_project(self, values: Float64Array, radius: float) -> Float64Array:
        """Clip."""
        return np.asarray(np.minimum(values, radius))


LINF = _Linf()
