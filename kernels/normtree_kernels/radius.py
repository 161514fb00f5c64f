"""The radius that leaves a wanted number of groups, in closed form."""

import math

import numpy as np

from normtree_kernels import sweep
from normtree_kernels.arguments import describe_bad, surviving_groups
from normtree_kernels.dtypes import Array, Float64Array, check_tensor
from normtree_kernels.leaves import aggregate
from normtree_kernels.norms import Axes, MixedNorm
from normtree_kernels.tree import climb

_STEP = 2.0**-52


def radius_for(
    y: Array,
    norm: str | MixedNorm,
    *,
    axes: Axes | None = None,
    sparsity: float | None = None,
    groups: int | None = None,
) -> float:
    """Find the radius whose ball leaves a wanted share or number of outermost groups.

    With the groups' norms sorted, v_1 >= v_2 >= …, exactly k groups survive the projection of radius
    sum over i <= k of (v_i - v_{k+1}). Groups tied with the first that is to vanish, vanish with it.

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

    Cost:
        Reads the tensor once, and selects from its outermost groups' norms.

    Source:
        Closed form of the multi-level projection's root; the Euclidean projection on l1,linf has none.
    """
    y = check_tensor(y, "y")
    mixed = MixedNorm.parse(norm, axes, ndim=y.ndim)
    v = outermost_norms(mixed, y, aggregate(y, mixed) if len(mixed.levels) > 1 else None)
    if not math.isfinite(float(sweep.up("l1", v, 0))):
        raise ValueError(describe_bad(y, "y", mixed))
    return radius_of(mixed, v, sparsity, groups)


def outermost_norms(mixed: MixedNorm, y: Array, v: Float64Array | None) -> Float64Array:
    """The outermost groups' norms, from V_1; for one level the groups are the elements themselves."""
    if v is None:
        return np.abs(y.reshape(-1).astype(np.float64))
    return climb(mixed, v)[-2]


def radius_of(mixed: MixedNorm, v: Float64Array, sparsity: object, groups: object) -> float:
    """Find the radius from the outermost groups' norms.

    Raises:
        TypeError, ValueError: as `radius_for`.
    """
    outer = mixed.levels[0].norm
    if outer != "l1":
        name = "sparsity" if groups is None else "groups"
        raise ValueError(f"{name}: only an outermost l1 level makes groups vanish, got {outer}")
    survivors = surviving_groups(v.size, sparsity, groups)
    if survivors == v.size:
        return float(sweep.up("l1", v, 0))
    tau = np.partition(v, v.size - survivors - 1)[v.size - survivors - 1] if v.size else 0.0
    above = v[v > tau]
    return _least_excess(v, above.size, math.fsum(above - tau))


def _least_excess(v: Float64Array, survivors: int, radius: float) -> float:
    """Lower the radius until rounding lets no group survive that is to vanish."""
    total = sweep.up("l1", v, 0)
    u = np.empty_like(v)
    step = _STEP
    while radius > 0.0:
        sweep.down("l1", v, 0, total, np.asarray(radius), u)
        if np.count_nonzero(u) <= survivors:
            return radius
        radius -= radius * step
        step *= 2.0
    return 0.0
