"""The Euclidean projection, where there is one: which mixed norms have it, and the l1,linf ball's own algorithm.

On l1,linf the projection is X = sign(Y) min(|Y|, mu_j) group by group, where theta >= 0 and mu_j >= 0 solve
sum over a group of max(|y| - mu_j, 0) = theta for groups with ||y_j||_1 > theta, mu_j = 0 for the others, and
sum of mu_j = eta. So it differs from the multi-level projection in the groups' radii only: the leaves are the same.
"""

import math
from collections.abc import Generator

import numpy as np

from normtree_kernels.dtypes import Float64Array, Int64Array
from normtree_kernels.norms.l1 import L1
from normtree_kernels.norms.linf import LINF
from normtree_kernels.norms.mixed_norm import Level, MixedNorm
from normtree_kernels.refusals import ValueRefused
from normtree_kernels.sweeps import sweep
from normtree_kernels.tree.goal import Goal

Steps = Generator[Float64Array, tuple[Float64Array, Int64Array], Float64Array]

_GRID = 2.0**-51
_LEAST = math.ldexp(1.0, -1074)  # float64's own grid
_FAR = 2  # doublings of the radius: a theta that takes so much more from an element is told from the largest sum
_STEPS = 64  # far more than Newton takes; sums rounded otherwise could keep it going
_BITS = 63  # of a float64 >= 0, which order like its values


def needs_own_algorithm(mixed: MixedNorm, goal: Goal) -> bool:
    """Tell whether the Euclidean projection is not the multi-level one; then it is the one on l1,linf.

    Raises:
        ValueError: no algorithm is known for it here, or none for this goal; the reason is told.
    """
    names = [level.norm.name for level in mixed.levels]
    while len(names) > 1 and names[0] == "linf":  # a product of balls: each group has its own
        names = names[1:]
    outer, inner = names[0], set(names[1:])
    if not inner or (outer in ("l1", "l2") and inner == {"l2"}):
        return False
    if mixed.levels[0].norm is L1 and inner == {"linf"}:
        if goal.radius is None:
            why = "on l1,linf no closed form is known for sparsity or groups; give a radius"
            raise ValueRefused("exact", "a radius", str(goal), why)
        return True
    why = (
        "the Euclidean projection is known for l1,linf, for l1,l2, for one level, and for linf over these; "
        f"the multi-level projection on {mixed.text} is not it, and nothing else is built here"
    )
    raise ValueRefused("exact", "l1,linf, or l1,l2, or one level, or linf over these", mixed.text, why)


def merged(mixed: MixedNorm) -> MixedNorm:
    """The l1,linf norm of two levels that equals l1,linf,…,linf: a maximum of maxima is a maximum."""
    inner = tuple(sorted(axis for level in mixed.levels[1:] for axis in level.axes))
    return MixedNorm((mixed.levels[0], Level(LINF, inner)))


def steps(v: Float64Array, sums: Float64Array, radius: float) -> Steps:
    """Solve for the radii mu_j, step by step: yield levels, and be sent the groups' sums and numbers above them.

    Newton's method on all mu_j and theta together. With the sums S_j and numbers n_j of a group's magnitudes above
    mu_j, the next theta and mu_j solve S_j - n_j mu_j = theta and sum of mu_j = eta. As sums of convex functions lie
    above their tangents, theta only rises, and ends at the root after finitely many steps; a group whose norm it
    passes has vanished for good. No sort, and a step reads the tensor once.

    Args:
        v: the groups' largest magnitudes, one axis.
        sums: the sums of their magnitudes.
        radius: eta, > 0 and less than the sum of ``v``.

    Returns:
        mu, with a sum of at most ``radius``.

    Raises:
        ValueError: a sum is infinite.
    """
    if not np.isfinite(sums).all():
        why = "the sum of a group's magnitudes overflows float64; scale it down"
        raise ValueRefused("y", "finite sums of groups' magnitudes", math.inf, why)
    norms, theta, mu = sums, 0.0, radius / float(sweep.up(L1, v, 0)) * v
    while True:
        sums, counts = yield mu
        sums = np.where(counts > 0, sums, v)  # rounding took mu to v: the largest magnitude alone is a tangent too
        slope = np.where(norms > theta, 1.0 / np.maximum(counts, 1), 0.0)
        slopes = _sum(slope)
        raised = (_sum(sums * slope) - radius) / slopes if slopes else theta  # a radius lost in rounding leaves none
        if raised <= theta:
            break
        theta = raised
        if math.frexp(theta * slope.max())[1] >= math.frexp(radius)[1] + _FAR:
            return (yield from _apart(v, norms, sums, counts, radius))
        mu = np.where(norms > theta, np.maximum((sums - theta) * slope, 0.0), 0.0)
    return _inside(sums, slope, norms, theta, radius, v)


def _apart(v: Float64Array, norms: Float64Array, sums: Float64Array, counts: Int64Array, radius: float) -> Steps:
    """Go on where float64 cannot tell theta from the largest sum: with what that exceeds theta by, in its place.

    The same steps, in numbers of the radius's own size: a group that survives keeps mu_j n_j, less what its sum lacks
    of the largest. Sums still round as sums do; so in the end the radius is shared out among those found.
    """
    largest, exceeds = float(norms.max()), math.inf
    for _ in range(_STEPS):
        slope = np.where(largest - norms < exceeds, 1.0 / np.maximum(counts, 1), 0.0)
        lowered = (radius + _sum((largest - sums) * slope)) / _sum(slope)
        if lowered >= exceeds:
            break
        exceeds = lowered
        sums, counts = yield np.clip((exceeds - (largest - sums)) * slope, 0.0, v)
        sums = np.where(counts > 0, sums, v)
    return _shared(float(sums.max()) - sums, 1.0 / np.maximum(counts, 1), radius, v)


def _shared(lacks: Float64Array, slope: Float64Array, radius: float, v: Float64Array) -> Float64Array:
    """The largest mu_j = (t - lacks_j) slope_j, from 0 to v_j and on a grid, with a sum inside the ball; bit by bit."""
    grid = max(math.ldexp(_GRID / 2.0, math.frexp(radius)[1]), _LEAST)
    mu, bits = np.zeros_like(v), 0
    for bit in reversed(range(_BITS)):
        tried = np.int64(bits | 1 << bit).view(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            raised = np.clip((tried - lacks) * slope, 0.0, v)
            raised = np.minimum(np.floor(raised / grid) * grid, v)
        if np.isfinite(tried) and _sum(raised) <= radius:
            mu, bits = raised, bits | 1 << bit
    return mu


def _inside(
    sums: Float64Array, slope: Float64Array, norms: Float64Array, theta: float, radius: float, v: Float64Array
) -> Float64Array:
    """Round mu down to a grid on which sums are exact, and raise theta until they are inside the ball."""
    grid = max(math.ldexp(_GRID, math.frexp(radius)[1]), _LEAST)
    doubling = 1.0
    while True:
        mu = np.where(norms > theta, np.clip((sums - theta) * slope, 0.0, v), 0.0)
        mu = np.asarray(np.minimum(np.floor(mu / grid) * grid, v))
        over = _sum(mu) - radius
        if over <= 0.0:
            return mu
        theta += max(over / _sum(slope), np.spacing(theta)) * doubling
        doubling *= 2.0


def _sum(values: Float64Array) -> float:
    """Sum non-negative values in the fixed shape."""
    return float(sweep.up(L1, values, 0))
