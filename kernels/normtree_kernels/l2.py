"""The l2 ball: Euclidean length, scaling.

Projection of v on {x : ||x|| <= rho}: x = v * rho / ||v||, and x = v inside the ball.
"""

import math

import numpy as np

from normtree_kernels.dtypes import Array, Float64Array
from normtree_kernels.elements import narrow, widen
from normtree_kernels.jit import device
from normtree_kernels.lanes import CHUNK, LANES
from normtree_kernels.lines import before_line
from normtree_kernels.vectors import load, spread, store, take, total, where_above, zeros

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
