"""The l1 ball: sum of magnitudes, threshold, soft-thresholding.

Projection of v >= 0 on {x : sum x <= rho}: x = max(v - tau, 0) with sum x = rho, and tau = 0 inside the ball.
"""

import math

import numpy as np

from normtree_kernels.dtypes import Array, Float64Array, Int64Array
from normtree_kernels.elements import narrow, widen
from normtree_kernels.jit import device
from normtree_kernels.lanes import CHUNK, LANES, fold

_MAX_EXPONENT = 1022  # of a power of two to which another value below it can be added in float64
_SAMPLED = 2 * CHUNK  # fibres at least this long are worth a look at their first elements
_SAMPLE = CHUNK // 2
_NEAR = 2.0**-6  # relative distance of a sum from the radius from which one step more is the last
_STEPS = 64  # far more than Newton takes; rounding could keep a sum away from its radius for ever


@device
def chunk_norm(x: Array, lanes: Float64Array) -> float:
    """Sum of magnitudes of at most 1024 contiguous elements."""
    whole = x.size - x.size % LANES
    for lane in range(LANES):
        lanes[lane] = 0.0
    for i in range(0, whole, LANES):
        for lane in range(LANES):
            lanes[lane] += abs(widen(x[i + lane]))
    for i in range(whole, x.size):
        lanes[i - whole] += abs(widen(x[i]))
    return fold(lanes)


@device
def add_row(row: Array, sums: Float64Array) -> None:
    """Add the magnitudes of a row of elements to their columns' sums."""
    for j in range(sums.size):
        sums[j] += abs(widen(row[j]))


@device
def add_four_rows(a: Array, b: Array, c: Array, d: Array, sums: Float64Array) -> None:
    """Add four rows, one after the other, in one pass over the sums."""
    for j in range(sums.size):
        sums[j] = (((sums[j] + abs(widen(a[j]))) + abs(widen(b[j]))) + abs(widen(c[j]))) + abs(widen(d[j]))


@device
def add_active_row(row: Array, levels: Float64Array, sums: Float64Array, counts: Int64Array) -> None:
    """Add a row's magnitudes above their columns' levels to the columns' sums, and count them."""
    for j in range(sums.size):
        size = abs(widen(row[j]))
        sums[j] += size if size > levels[j] else 0.0
        counts[j] += size > levels[j]


@device
def add_four_active_rows(
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
def fold_chunks(partials: Float64Array, count: int, lanes: Float64Array) -> float:
    """Sum of ``count`` non-negative partial sums in the fixed shape; overwrites them."""
    while count > 1:
        chunks = 0
        for start in range(0, count, CHUNK):
            partials[chunks] = chunk_norm(partials[start : min(start + CHUNK, count)], lanes)
            chunks += 1
        count = chunks
    total: float = partials[0]
    return total


@device
def grid(rho: float) -> float:
    """Least power of two above rho; adding and subtracting it rounds to multiples of 2**-52 of it.

    Sums of such multiples up to rho are exact in float64 in any order, so the sum of a projected fibre is no matter
    of rounding. From 2**1022 on adding the power could overflow, and 0 leaves values as they are.
    """
    exponent = math.frexp(rho)[1]
    return math.ldexp(1.0, exponent) if exponent <= _MAX_EXPONENT else 0.0


@device
def excess(magnitude: float, tau: float, power: float) -> float:
    """max(magnitude - tau, 0), rounded down to the grid of ``power``."""
    over = max(magnitude - tau, 0.0)
    rounded = (over + power) - power
    return rounded - power * 2.0**-52 if rounded > over else rounded


@device
def active_sum(x: Array, tau: float, lanes: Float64Array, partials: Float64Array) -> tuple[float, int]:
    """Sum and number of the magnitudes above tau."""
    active = 0
    chunks = 0
    for start in range(0, x.size, CHUNK):
        chunk = x[start : min(start + CHUNK, x.size)]
        whole = chunk.size - chunk.size % LANES
        for lane in range(LANES):
            lanes[lane] = 0.0
        for i in range(0, whole, LANES):
            for lane in range(LANES):
                magnitude = abs(widen(chunk[i + lane]))
                lanes[lane] += magnitude if magnitude > tau else 0.0
                active += magnitude > tau
        for i in range(whole, chunk.size):
            magnitude = abs(widen(chunk[i]))
            lanes[i - whole] += magnitude if magnitude > tau else 0.0
            active += magnitude > tau
        partials[chunks] = fold(lanes)
        chunks += 1
    return fold_chunks(partials, chunks, lanes), active


@device
def excess_sum(x: Array, tau: float, lanes: Float64Array, partials: Float64Array) -> tuple[float, int]:
    """Sum of max(|x| - tau, 0), and the number of magnitudes above tau."""
    active = 0
    chunks = 0
    for start in range(0, x.size, CHUNK):
        chunk = x[start : min(start + CHUNK, x.size)]
        whole = chunk.size - chunk.size % LANES
        for lane in range(LANES):
            lanes[lane] = 0.0
        for i in range(0, whole, LANES):
            for lane in range(LANES):
                over = abs(widen(chunk[i + lane])) - tau
                lanes[lane] += over if over > 0.0 else 0.0
                active += over > 0.0
        for i in range(whole, chunk.size):
            over = abs(widen(chunk[i])) - tau
            lanes[i - whole] += over if over > 0.0 else 0.0
            active += over > 0.0
        partials[chunks] = fold(lanes)
        chunks += 1
    return fold_chunks(partials, chunks, lanes), active


@device
def kept_sum(x: Array, tau: float, power: float, lanes: Float64Array, partials: Float64Array) -> tuple[float, int]:
    """Sum and number of the elements as soft-thresholding will leave them: no less than the norm of the result."""
    active = 0
    chunks = 0
    for start in range(0, x.size, CHUNK):
        chunk = x[start : min(start + CHUNK, x.size)]
        whole = chunk.size - chunk.size % LANES
        for lane in range(LANES):
            lanes[lane] = 0.0
        for i in range(0, whole, LANES):
            for lane in range(LANES):
                left = excess(abs(widen(chunk[i + lane])), tau, power)
                lanes[lane] += left
                active += left > 0.0
        for i in range(whole, chunk.size):
            left = excess(abs(widen(chunk[i])), tau, power)
            lanes[i - whole] += left
            active += left > 0.0
        partials[chunks] = fold(lanes)
        chunks += 1
    return fold_chunks(partials, chunks, lanes), active


@device
def search(x: Array, norm: float, tau: float, rho: float, lanes: Float64Array, partials: Float64Array) -> float:
    """Take Newton's steps for sum max(|x| - tau, 0) = rho from tau on, until one starts near the root.

    The sum is convex, decreasing and piecewise linear in tau: the first step lands left of the root wherever it
    starts from, the others rise to it, and each squares the distance. So the last one, from where the sum is within
    ``_NEAR`` of rho, seldom leaves an element between tau and the root.
    """
    for _ in range(_STEPS):
        total, active = excess_sum(x, tau, lanes, partials)
        # Where tau is above all, start again from where none is.
        tau = max(tau + (total - rho) / active, 0.0) if active > 0 else (norm - rho) / x.size
        if abs(total - rho) <= _NEAR * rho:
            break
    return tau


@device
def threshold(x: Array, norm: float, rho: float, lanes: Float64Array, partials: Float64Array) -> float:
    """Find tau with sum max(|x| - tau, 0) <= rho, for 0 < rho < norm = sum |x|.

    Newton's steps from the left, or for a long fibre from the threshold of its first elements at their share of the
    radius. In the end the result is measured as it will be stored: where an element still lies between tau and the
    root, or rounding leaves the sum an ulp too large, tau is raised.
    """
    tau = (norm - rho) / x.size
    if x.size >= _SAMPLED:
        sample, share = x[:_SAMPLE], rho * _SAMPLE / x.size
        total = chunk_norm(sample, lanes)
        start = (total - share) / _SAMPLE
        tau = search(sample, total, start, share, lanes, partials) if start > 0.0 else 0.0
    tau = search(x, norm, tau, rho, lanes, partials)
    power = grid(rho)
    least = np.spacing(tau)
    while True:
        total, active = kept_sum(x, tau, power, lanes, partials)
        if total <= rho:
            return tau
        step = (total - rho) / active
        if step < least:
            step = least
            least *= 2.0
        tau += step


@device
def shrunk(element: float, tau: float, power: float) -> float:
    """Soft-threshold one element: sign(x) max(|x| - tau, 0), +0.0 where that vanishes; as it is for tau < 0."""
    value = widen(element)
    left = excess(abs(value), tau, power)
    narrowed = narrow(math.copysign(left, value) if left > 0.0 else 0.0, element)
    return element if tau < 0.0 else narrowed


@device
def shrink(x: Array, tau: float, power: float, out: Array) -> None:
    """Soft-threshold a fibre."""
    for i in range(x.size):
        out[i] = shrunk(x[i], tau, power)


@device
def shrink_row(row: Array, taus: Float64Array, powers: Float64Array, out: Array) -> None:
    """Soft-threshold each element of a row by its column's threshold."""
    for j in range(row.size):
        out[j] = shrunk(row[j], taus[j], powers[j])
