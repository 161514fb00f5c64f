"""Thresholds of the l1 ball, and soft-thresholding.

Projection of v >= 0 on {x : sum x <= rho}: x = max(v - tau, 0) with sum x = rho, and tau = 0 inside the ball.

A threshold is kept as tau - low, in two float64. Most need but one, and low is 0. Where all that is left lies so far
above the radius that float64 cannot tell tau from it, the largest element is taken apart: tau is its magnitude, and
low what it leaves of it, a number of the radius's own size. Differences of such neighbours are exact.
"""

import math

import numpy as np

from normtree_kernels.compiled.elements import narrow, widen
from normtree_kernels.compiled.jit import device
from normtree_kernels.compiled.lanes import CHUNK, LANES
from normtree_kernels.compiled.lines import before_line
from normtree_kernels.compiled.vectors import (
    Lanes,
    load,
    signed_like,
    sizes,
    spread,
    store,
    take,
    total,
    where_above,
    zeros,
)
from normtree_kernels.dtypes import Array, Float64Array
from normtree_kernels.sweeps import maxima
from normtree_kernels.sweeps.sums import chunk_sum, fold_chunks

GRID = 2.0**-52  # of a power of two: what adding and subtracting it rounds smaller numbers to
_MAX_EXPONENT = 1022  # of a power of two to which another value below it can be added in float64
SAMPLED = 2 * CHUNK  # fibres at least this long are worth a look at their first elements
SAMPLE = CHUNK // 2
_NEAR = 2.0**-6  # relative distance of a sum from the radius from which one step more is the last
STEPS = 64  # far more than Newton takes; rounding could keep a sum away from its radius for ever
_LEAST = 2.0**-1074  # float64's own grid
_SURELY = 1.0 - 2.0**-40  # of a sum that rounding may have made too large


@device
def grid(rho: float) -> float:
    """Least power of two above rho; adding and subtracting it rounds to multiples of 2**-52 of it.

    Sums of such multiples up to rho are exact in float64 in any order, so the sum of a projected fibre is no matter
    of rounding. From 2**1022 on adding the power could overflow, and 0 leaves values as they are.
    """
    exponent = math.frexp(rho)[1]
    return math.ldexp(1.0, exponent) if exponent <= _MAX_EXPONENT else 0.0


@device
def on_grid(tau: float, power: float) -> float:
    """Round a threshold up to the grid of ``power``, or to its own digits where these are coarser.

    What elements of fewer digits leave above it lies on the grid then, and loses nothing more.
    """
    rounded = (tau + power) - power
    return rounded if rounded >= tau else rounded + max(power * GRID, np.spacing(rounded))


@device
def limit(power: float) -> float:
    """The thresholds from which on their own digits are coarser than the grid of ``power``: the largest is taken apart.

    Then what is left of a fibre is within a factor of two of its largest element, and all of it lies on the grid.
    """
    return 2.0 * power if power > 0.0 else math.inf


@device
def lowered(low: float, total: float, active: float, rho: float, power: float) -> float:
    """Newton's step down from ``low``, where ``active`` elements leave ``total``, more than rho: at most to the root.

    The sum is convex and rises with low; and on the grid it is exact up to twice the power. So the first low that is
    not too large is the largest such one on the grid. No more steps than digits: each halves what is too much, or the
    elements that make it up.
    """
    over = total - rho if total < 2.0 * power else total * _SURELY - rho
    least = max(power * GRID, _LEAST)
    step = max(over / active, least)
    rounded = (step + power) - power
    return low - (rounded if rounded >= step else rounded + least)


@device
def excess(magnitude: float, tau: float, low: float, power: float) -> float:
    """max(magnitude - (tau - low), 0), rounded down to the grid of ``power``."""
    over = max((magnitude - tau) + low, 0.0)
    rounded = (over + power) - power
    return rounded - power * GRID if rounded > over else rounded


@device
def chunk_excess(x: Array, tau: float) -> tuple[float, float]:
    """Sum of max(|x| - tau, 0) and the number of magnitudes above tau, of at most 1024 contiguous elements."""
    sums, counts, nothing, one, level = zeros(), zeros(), zeros(), spread(1.0), spread(tau)
    for i in range(0, x.size, LANES):
        over = sizes(take(x, i)) - level
        sums = sums + where_above(over, nothing, over, nothing)
        counts = counts + where_above(over, nothing, one, nothing)
    return total(sums), total(counts)


@device
def excess_sum(x: Array, tau: float, partials: Float64Array) -> tuple[float, float]:
    """Sum of max(|x| - tau, 0), and the number of magnitudes above tau."""
    active = 0.0
    chunks = 0
    for start in range(0, x.size, CHUNK):
        partials[chunks], count = chunk_excess(x[start : min(start + CHUNK, x.size)], tau)
        active += count
        chunks += 1
    return fold_chunks(partials, chunks), active


@device
def kept(size: Lanes, tau: Lanes, low: Lanes, power: Lanes, step: Lanes) -> Lanes:
    """`excess`, lane by lane; ``step`` is the grid's."""
    over = (size - tau) + low
    over = where_above(over, zeros(), over, zeros())
    rounded = (over + power) - power
    return rounded - where_above(rounded, over, step, zeros())


@device
def chunk_kept(x: Array, tau: float, low: float, power: float) -> tuple[float, float]:
    """Sum and number of elements as soft-thresholding will leave them, of at most 1024 contiguous elements."""
    sums, counts, nothing, one = zeros(), zeros(), zeros(), spread(1.0)
    level, lows, powers, steps = spread(tau), spread(low), spread(power), spread(power * GRID)
    for i in range(0, x.size, LANES):
        left = kept(sizes(take(x, i)), level, lows, powers, steps)
        sums = sums + left
        counts = counts + where_above(left, nothing, one, nothing)
    return total(sums), total(counts)


@device
def kept_sum(x: Array, tau: float, low: float, power: float, partials: Float64Array) -> tuple[float, float]:
    """Sum and number of the elements as soft-thresholding will leave them: no less than the norm of the result."""
    active = 0.0
    chunks = 0
    for start in range(0, x.size, CHUNK):
        partials[chunks], count = chunk_kept(x[start : min(start + CHUNK, x.size)], tau, low, power)
        active += count
        chunks += 1
    return fold_chunks(partials, chunks), active


@device
def search(x: Array, norm: float, tau: float, rho: float, most: float, partials: Float64Array) -> float:
    """Take Newton's steps for sum max(|x| - tau, 0) = rho from tau on, until one starts near the root or is ``most``.

    The sum is convex, decreasing and piecewise linear in tau: the first step lands left of the root wherever it
    starts from, the others rise to it, and each squares the distance. So the last one, from where the sum is within
    ``_NEAR`` of rho, seldom leaves an element between tau and the root.
    """
    for _ in range(STEPS):
        total, active = excess_sum(x, tau, partials)
        tau = stepped(tau, total, active, norm, rho, x.size)
        if is_near(total, rho) or tau >= most:
            break
    return tau


@device
def stepped(tau: float, total: float, active: float, norm: float, rho: float, size: int) -> float:
    """Newton's step from tau, above which ``active`` of ``size`` magnitudes lie, by ``total`` together."""
    # Where tau is above all, start again from where none is.
    return max(tau + (total - rho) / active, 0.0) if active > 0 else (norm - rho) / size


@device
def is_near(total: float, rho: float) -> bool:
    """Whether a step from where the sum is ``total`` is the last."""
    return abs(total - rho) <= _NEAR * rho


@device
def sampled(sample: Array, rho: float, size: int, partials: Float64Array) -> float:
    """Threshold of a long fibre's first elements, at their share of the radius."""
    share = rho * SAMPLE / size
    total = chunk_sum(sample)
    start = (total - share) / SAMPLE
    return search(sample, total, start, share, np.inf, partials) if start > 0.0 else 0.0


@device
def threshold(x: Array, norm: float, rho: float, partials: Float64Array) -> tuple[float, float]:
    """Find tau and low with sum max(|x| - (tau - low), 0) <= rho, for 0 < rho < norm = sum |x|.

    Newton's steps from the left, or for a long fibre from the threshold of its first elements at their share of the
    radius. In the end the result is measured as it will be stored: where an element still lies between tau and the
    root, or rounding leaves the sum too large, tau is raised. Where tau comes to its `limit`, the largest element is
    taken apart, and what it leaves is lowered from all of the radius.
    """
    power = grid(rho)
    tau = sampled(x[:SAMPLE], rho, x.size, partials) if x.size >= SAMPLED else (norm - rho) / x.size
    tau = search(x, norm, tau, rho, limit(power), partials)
    if tau < limit(power):
        tau, low = on_grid(tau, power), 0.0
    else:
        tau, low = maxima.chunk_norm(x), excess(rho, 0.0, 0.0, power)
    least = max(power * GRID, np.spacing(tau))
    while True:
        total, active = kept_sum(x, tau, low, power, partials)
        if total <= rho:
            return tau, low
        if low > 0.0:
            low = lowered(low, total, active, rho, power)
            continue
        step = (total - rho) / active
        if step < least:
            step = least
            least *= 2.0
        tau = on_grid(tau + step, power)


@device
def shrunk(element: float, tau: float, low: float, power: float) -> float:
    """Soft-threshold one element: sign(x) max(|x| - (tau - low), 0), +0.0 where that vanishes; as it is for tau < 0."""
    value = widen(element)
    left = excess(abs(value), tau, low, power)
    narrowed = narrow(math.copysign(left, value) if left > 0.0 else 0.0, element)
    return element if tau < 0.0 else narrowed


@device
def shrink(
    x: Array, first: int, count: int, tau: float, low: float, power: float, out: Array, at: int, streaming: bool
) -> None:
    """Soft-threshold ``count`` elements from ``x[first:]`` to ``out[at:]``."""
    head = min(before_line(out, at), count) if streaming else 0
    stop = count - (count - head) % LANES
    level, lows, powers, steps = spread(tau), spread(low), spread(power), spread(power * GRID)
    for i in range(head):
        out[at + i] = shrunk(x[first + i], tau, low, power)
    for i in range(head, stop, LANES):
        elements = load(x, first + i)
        left = kept(sizes(elements), level, lows, powers, steps)
        store(where_above(left, zeros(), signed_like(left, elements), zeros()), out, at + i, streaming)
    for i in range(stop, count):
        out[at + i] = shrunk(x[first + i], tau, low, power)


@device
def shrink_rows(
    x: Array,
    at: int,
    step: int,
    taus: Float64Array,
    lows: Float64Array,
    powers: Float64Array,
    out: Array,
    to: int,
    out_step: int,
    count: int,
    streaming: bool,
) -> None:
    """Soft-threshold each element of ``count`` rows by its column's threshold; as it is where that is negative.

    As `normtree_kernels.norms.l2.scale_rows` goes over them.
    """
    first = min(before_line(out, to), taus.size) if streaming else 0
    stop = taus.size - (taus.size - first) % LANES
    nothing, grid_step = zeros(), spread(GRID)
    for i in range(first, stop, LANES):
        tau, low, power = load(taus, i), load(lows, i), load(powers, i)
        for k in range(count):
            elements = load(x, at + k * step + i)
            left = kept(sizes(elements), tau, low, power, power * grid_step)
            shrunken = where_above(left, nothing, signed_like(left, elements), nothing)
            store(where_above(nothing, tau, elements, shrunken), out, to + k * out_step + i, streaming)
    for k in range(count):
        a, b = at + k * step, to + k * out_step
        for i in range(first):
            out[b + i] = shrunk(x[a + i], taus[i], lows[i], powers[i])
        for i in range(stop, taus.size):
            out[b + i] = shrunk(x[a + i], taus[i], lows[i], powers[i])
