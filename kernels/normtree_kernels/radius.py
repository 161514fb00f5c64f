"""The radius that leaves a wanted number of groups, in closed form."""

import math

import numpy as np

from normtree_kernels import sweep
from normtree_kernels.arguments import not_finite
from normtree_kernels.dtypes import Array, Float64Array, check_tensor
from normtree_kernels.goal import Goal, Reach, warn
from normtree_kernels.leaves import aggregate
from normtree_kernels.norms import Axes, MixedNorm
from normtree_kernels.refusals import ValueRefused
from normtree_kernels.tree import climb


def radius_for(
    y: Array,
    norm: str | MixedNorm,
    *,
    axes: Axes | None = None,
    sparsity: float | None = None,
    groups: int | None = None,
) -> float:
    """Find the radius whose ball leaves a wanted share or number of outermost groups.

    See `normtree_kernels.goal.Goal.radius_of` for the formula.

    Args:
        y: tensor as for `normtree_kernels.project`. Not changed.
        norm: norms of the levels, the outermost l1.
        axes: the levels' axes; see `MixedNorm.parse`.
        sparsity: at least this share of the outermost groups vanishes, 0 to 1.
        groups: at most this many survive, 0 to all; give one of the two.

    Returns:
        The radius, in the units of the elements; for the multi-level projection, not for ``exact=True``.

    Raises:
        TypeError, ValueError: as `normtree_kernels.project`; an outermost level that is not l1.

    Warns:
        NothingLeftWarning: groups were asked for, and all that could be left are tied, so that none is.

    Cost:
        Reads the tensor once, and selects from its outermost groups' norms.

    Source:
        Closed form of the multi-level projection's root; the Euclidean projection on l1,linf has none.
    """
    y = check_tensor(y, "y")
    mixed = MixedNorm.parse(norm, axes, ndim=y.ndim)
    if (sparsity is None) == (groups is None):
        wanted, got = "exactly one of sparsity and groups", "none" if sparsity is None else "both"
        raise ValueRefused("sparsity", wanted, got, f"{wanted} is wanted, got {got}")
    goal = Goal(sparsity=sparsity, groups=groups)
    goal.check_fits(mixed, y.shape)
    reach = _reach(goal, mixed, y)
    warn(reach)
    return reach.radius


def settle(goal: Goal, mixed: MixedNorm, y: Array) -> Goal | Reach:
    """Return a goal that aggregates suffice to reach, or what is reached.

    The outermost groups' norms tell the radius, and the tree knows them; but for one level the groups are the
    elements themselves, so that the radius must be found first.

    Raises:
        ValueError: an element is NaN or infinite, or the norm overflows.
    """
    if goal.radius is not None or len(mixed.levels) > 1:
        return goal
    return _reach(goal, mixed, y)


def _reach(goal: Goal, mixed: MixedNorm, y: Array) -> Reach:
    if not y.size:  # its groups may be more than memory holds
        return Reach(0.0)
    v = _outermost_norms(mixed, y)
    if not math.isfinite(float(sweep.up("l1", v, 0))):
        raise not_finite(y, "y", mixed)
    return goal.reach(v)


def _outermost_norms(mixed: MixedNorm, y: Array) -> Float64Array:
    if len(mixed.levels) == 1:
        return np.abs(y.reshape(-1).astype(np.float64))
    return climb(mixed, aggregate(y, mixed))[-2]
