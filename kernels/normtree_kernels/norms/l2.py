"""The l2 norm: Euclidean length; its ball is projected onto by scaling.

Projection of v on {x : ||x|| <= rho}: x = v * rho / ||v||, and x = v inside the ball.
"""

import math

import numpy as np

from normtree_kernels.compiled.elements import narrow, widen
from normtree_kernels.compiled.jit import device, kernel
from normtree_kernels.compiled.lanes import CHUNK, LANES
from normtree_kernels.compiled.lines import before_line, drain
from normtree_kernels.compiled.vectors import load, spread, store, take, total, where_above, zeros
from normtree_kernels.dtypes import Array, Float64Array, Int64Array
from normtree_kernels.norms.linf import LINF
from normtree_kernels.sweeps import columns, rows
from normtree_kernels.vector_norm import Norm

# Sums of squares outside these bounds may have lost digits to underflow or overflow, and are scaled and taken again.
_SMALL, _LARGE = 1e-200, 1e300

# Scaling and evaluating a length rounds fewer than 2**8 times; so much less than rho stays inside whatever they do.
MARGIN = 1.0 - 2.0**-45

# Radii and factors below this lose digits to underflow, and are applied by their exponents and fractions apart.
_LEAST = 2.0**-960

# Norms of chunks are rounded to float64's own grid, and below this radius those of many add up to more than the margin.
LEAST_OF_CHUNKS = 2.0**-1010
_STEP = 2.0**-1074


@device
def square_sum(x: Array) -> float:
    """Sum of squares of at most 1024 contiguous elements."""
    sums = zeros()
    for i in range(0, x.size, LANES):
        elements = take(x, i)
        sums = sums + elements * elements
    result: float = total(sums)
    return result


@device
def length(square: float, x: Array, first: int, step: int, count: int) -> float:
    """Square root of a chunk's sum of squares; taken anew in scale where that could have left float64's range.

    A subnormal one is rounded down, so that rounding takes no scaled fibre out of its ball.
    """
    if (square >= _SMALL and square <= _LARGE) or math.isnan(square):
        return math.sqrt(square)
    largest = 0.0
    for i in range(count):
        largest = max(largest, abs(widen(x[first + i * step])))
    if largest == 0.0 or not largest < np.inf:
        return largest
    exponent = math.frexp(largest)[1]
    half = -exponent // 2  # in two halves: 2**-exponent itself may be out of range
    scaled = np.empty(count)
    for i in range(count):
        scaled[i] = math.ldexp(math.ldexp(widen(x[first + i * step]), half), -exponent - half)
    return times_power(math.sqrt(square_sum(scaled)), exponent)


@device
def times_power(value: float, exponent: int) -> float:
    """Scale a value >= 0 by 2**exponent, rounded towards zero where that is subnormal."""
    result = math.ldexp(value, exponent)
    return result - _STEP if math.ldexp(result, -exponent) > value else result


@device
def chunk_norm(x: Array) -> float:
    """Euclidean length of at most 1024 contiguous elements."""
    return length(square_sum(x), x, 0, 1, x.size)


@device
def add_rows(x: Array, first: int, count: int, step: int, width: int, sums: Float64Array) -> None:
    """Add to columns' sums what the squares of ``count`` rows that lie ``step`` apart, in order, sum to."""
    stop = width - width % LANES
    for i in range(first, first + stop, LANES):
        rows = zeros()
        for k in range(count):
            elements = load(x, i + k * step)
            rows = rows + elements * elements
        store(load(sums, i - first) + rows, sums, i - first, False)
    for i in range(stop, width):
        column = 0.0
        for k in range(count):
            element = widen(x[first + k * step + i])
            column += element * element
        sums[i] += column


@device
def factor(norm: float, rho: float) -> float:
    """The factor that brings a fibre of that norm inside the ball of radius rho < norm; 0 where it loses digits."""
    s = rho / norm * MARGIN
    return s if min(s, rho) >= _LEAST else 0.0


@device
def is_lost(rho: float, length: int) -> bool:
    """Whether nothing is left of a fibre outside a ball so small: one of several chunks."""
    return length > CHUNK and rho < LEAST_OF_CHUNKS


@device
def scale_apart(
    x: Array, first: int, step: int, count: int, norm: float, rho: float, out: Array, at: int, out_step: int
) -> None:
    """Scale elements by rho / norm, rounded towards zero, where that `factor` would lose digits."""
    exponent, power = math.frexp(norm)[1], math.frexp(rho)[1]
    s = math.ldexp(rho, -power) / math.ldexp(norm, -exponent) * MARGIN
    for i in range(count):
        value = widen(x[first + i * step])
        left = times_power(math.ldexp(abs(value), -exponent) * s, power)
        out[at + i * out_step] = narrow(math.copysign(left, value) if left > 0.0 else 0.0, x[0])


@device
def scale(x: Array, first: int, count: int, s: float, out: Array, at: int, streaming: bool) -> None:
    """Scale ``count`` elements from ``x[first:]`` by s > 0, to ``out[at:]``."""
    head = min(before_line(out, at), count) if streaming else 0
    stop = count - (count - head) % LANES
    factors = spread(s)
    for i in range(head):
        out[at + i] = narrow(widen(x[first + i]) * s, x[0])
    for i in range(head, stop, LANES):
        store(load(x, first + i) * factors, out, at + i, streaming)
    for i in range(stop, count):
        out[at + i] = narrow(widen(x[first + i]) * s, x[0])


@device
def scaled(element: float, s: float) -> float:
    """Scale one element; +0.0 where the factor is 0."""
    return narrow(widen(element) * s if s > 0.0 else 0.0, element)


@device
def scale_rows(
    x: Array,
    at: int,
    step: int,
    s: Float64Array,
    out: Array,
    to: int,
    out_step: int,
    count: int,
    streaming: bool,
) -> None:
    """Scale each element of ``count`` rows, ``step`` apart, by its column's factor; +0.0 where that is 0.

    The rows go side by side, so that factors are read once for all of them. Where ``streaming``,
    the results' rows are lines apart.
    """
    first = min(before_line(out, to), s.size) if streaming else 0
    stop = s.size - (s.size - first) % LANES
    nothing = zeros()
    for i in range(first, stop, LANES):
        factors = load(s, i)
        for k in range(count):
            elements = load(x, at + k * step + i)
            store(where_above(factors, nothing, elements * factors, nothing), out, to + k * out_step + i, streaming)
    for k in range(count):
        a, b = at + k * step, to + k * out_step
        for i in range(first):
            out[b + i] = scaled(x[a + i], s[i])
        for i in range(stop, s.size):
            out[b + i] = scaled(x[a + i], s[i])


@device
def project(
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
    """Scale a fibre, or a part of one."""
    s = factor(v, u)
    if is_lost(u, whole):
        rows.clear(out, at, length, x[0], streaming)
    elif s > 0.0:
        scale(x, first, length, s, out, at, streaming)
    else:
        scale_apart(x, first, 1, length, v, u, out, at, 1)


@kernel
def _scale_columns(
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
    """Project each column of l2 norm v onto the ball of radius u, row after row of memory.

    Columns whose factor would lose digits are copied, and then scaled one by one where they lie in the result.
    """
    factors, apart = np.empty(v.size), np.zeros(v.size, np.bool_)
    for j in range(v.size):
        inside, vanishes = v[j] <= u[j], narrow(u[j], x[0]) == narrow(0.0, x[0]) or is_lost(u[j], whole)
        factors[j] = 1.0 if inside else 0.0 if vanishes else factor(v[j], u[j])
        if not inside and not vanishes and factors[j] == 0.0:
            factors[j], apart[j] = 1.0, True
    together = columns.rows_together(out, out_step, streaming)
    for k in range(offsets.size):
        scales = factors[k * width : (k + 1) * width]
        for i in range(0, length, together):
            at, to = offsets[k] + i * step, out_offsets[k] + i * out_step
            count = min(together, length - i)
            scale_rows(x, at, step, scales, out, to, out_step, count, streaming)
    if streaming:
        drain()
    for j in range(v.size):
        if apart[j]:
            at = out_offsets[j // width] + j % width
            scale_apart(out, at, out_step, length, v[j], u[j], out, at, out_step)


class _L2(Norm):
    """The Euclidean length."""

    name = "l2"
    dual = "l2"
    rows_up = staticmethod(rows.up(__name__, chunk_norm, chunk_norm))
    rows_down = staticmethod(rows.down(__name__, project))
    columns_up = staticmethod(columns.up(__name__, columns.summed(add_rows, length)))
    columns_down = staticmethod(_scale_columns)
    margin = 2.0**-44

    @property
    def of_one(self) -> Norm:
        """An interval, as for every norm that is the magnitude there."""
        return LINF

    def growth(self, count: int) -> float:
        """The root of their number."""
        return math.sqrt(count)

    def reference_norm(self, values: Float64Array) -> Float64Array:
        """The root of the sum of squares, in the scale of the largest."""
        largest = values.max(axis=-1, initial=0.0, keepdims=True)
        scaled = np.divide(values, largest, out=np.zeros_like(values), where=largest > 0)
        return np.asarray(largest[..., 0] * np.sqrt((scaled**2).sum(axis=-1)))

    def reference_project(self, values: Float64Array, radius: float) -> Float64Array:
        """Scale."""
        largest = values.max()
        return np.asarray(values / largest / float(self.reference_norm(values / largest)) * radius)


L2 = _L2()
