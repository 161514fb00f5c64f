"""The oracle: the definitions in plain NumPy, fibre by fibre, with a sort; slow and obvious."""

from math import prod

import numpy as np

from normtree_kernels.arguments import check_out, check_threads
from normtree_kernels.dtypes import Array, Float64Array, check_tensor
from normtree_kernels.norms.mixed_norm import Axes, MixedNorm
from normtree_kernels.tree.exact import merged, needs_own_algorithm
from normtree_kernels.tree.goal import Goal
from normtree_kernels.vector_norm import Norm


def project(
    y: Array,
    norm: str | MixedNorm,
    radius: float | None = None,
    *,
    axes: Axes | None = None,
    sparsity: float | None = None,
    groups: int | None = None,
    exact: bool = False,
    out: Array | None = None,
    threads: int = 1,
) -> Array:
    """Project a tensor onto a mixed-norm ball, in float64 and fibre by fibre; arguments as `normtree_kernels.project`.

    Args:
        y: float array, any shape. Not changed.
        norm: norms of the levels from outer to inner, such as ``"l1,linf"``; or a `MixedNorm`.
        radius: radius of the ball, finite and >= 0.
        axes: the levels' axes from outer to inner; see `MixedNorm.parse`.
        sparsity: instead of a radius, the share of the outermost groups that vanishes.
        groups: instead of a radius, the number of outermost groups that survive.
        exact: whether to find the nearest point, by bisection.
        out: array to write to.
        threads: taken and not used.

    Returns:
        ``out``, or a new array of y's shape and dtype, each element the nearest to the exact value.

    Raises:
        TypeError, ValueError: as `normtree_kernels.project`.

    Cost:
        O(n log n), with a Python call for each fibre.
    """
    y = check_tensor(y, "y")
    mixed = MixedNorm.parse(norm, axes, ndim=y.ndim)
    goal = Goal(radius, sparsity, groups)
    goal.check_fits(mixed, y.shape)
    check_threads(threads)
    own = exact and needs_own_algorithm(mixed, goal)
    mixed = merged(mixed) if own else mixed
    values = np.abs(y.astype(np.float64)).transpose(mixed.order)
    by_level = values.reshape([prod(y.shape[axis] for axis in level.axes) for level in mixed.levels])
    eta = _radius(by_level, mixed, goal)
    projected = (nearest_l1_linf(by_level, eta) if own else project_levels(by_level, mixed, eta)).reshape(values.shape)
    signed = np.copysign(projected.transpose(np.argsort(mixed.order)), y.astype(np.float64))
    result = np.asarray(np.where(signed == y, y, signed.astype(y.dtype)))
    if out is None:
        return result
    check_out(out, y)[...] = result
    return out


def _radius(by_level: Float64Array, mixed: MixedNorm, goal: Goal) -> float:
    """The closed form: with v sorted downwards, the sum over the k survivors of v_i - v_{k+1}."""
    if goal.radius is not None:
        return goal.radius
    v = by_level
    for level in reversed(mixed.levels[1:]):
        v = level.norm.reference_norm(v)
    survivors = goal.survivors(v.size)
    descending = np.append(np.sort(v)[::-1], 0.0)
    return float((descending[:survivors] - descending[survivors]).sum())


def nearest_l1_linf(fibres: Float64Array, radius: float) -> Float64Array:
    """Project non-negative fibres, one a row, on the l1,linf ball: bisection on theta, a level for each.

    Theta is told by what the largest sum exceeds it by: beside the sum itself a small radius could not be seen.
    """
    if float(fibres.max(axis=1, initial=0.0).sum()) <= radius:
        return fibres
    sums = fibres.sum(axis=1)
    low, high = 0.0, float(sums.max())
    while low < (middle := low + (high - low) / 2) < high:
        if _water_levels(fibres, middle - (sums.max() - sums)).sum() > radius:
            high = middle
        else:
            low = middle
    return np.asarray(np.minimum(fibres, _water_levels(fibres, low - (sums.max() - sums))[:, None]))


def _water_levels(fibres: Float64Array, left: Float64Array) -> Float64Array:
    """mu_j with sum of min(|y|, mu_j) = left_j; 0 where that is negative, the largest element where it is too much."""
    return np.array([_water_level(fibre, each) for fibre, each in zip(fibres, left, strict=True)])


def _water_level(fibre: Float64Array, left: float) -> float:
    ascending = np.sort(fibre)
    below = np.concatenate([[0.0], np.cumsum(ascending)[:-1]])
    levels = (left - below) / np.arange(fibre.size, 0, -1)  # where the elements before are under it, whole
    found = np.flatnonzero(levels <= ascending)
    return max(float(levels[found[0]]), 0.0) if found.size else float(ascending[-1])


def norm(y: Array, norm: str | MixedNorm, *, axes: Axes | None = None) -> float:
    """Evaluate a mixed norm in float64; arguments as `project`."""
    y = check_tensor(y, "y")
    mixed = MixedNorm.parse(norm, axes, ndim=y.ndim)
    values = np.abs(y.astype(np.float64)).transpose(mixed.order)
    for level in reversed(mixed.levels):
        kept = values.shape[: values.ndim - len(level.axes)]
        length = prod(values.shape[len(kept) :])
        values = level.norm.reference_norm(values.reshape(*kept, length))
    return float(values)


def project_levels(values: Float64Array, mixed: MixedNorm, radius: float) -> Float64Array:
    """Project non-negative values, one axis a level, by the definition of MP."""
    aggregates = [values]
    for level in reversed(mixed.levels[1:]):
        aggregates.append(level.norm.reference_norm(aggregates[-1]))
    radii: Float64Array = np.asarray(radius)
    for level, v in zip(mixed.levels, reversed(aggregates), strict=True):
        fibres = v.reshape(radii.size, v.shape[-1])
        projected = [project_vector(f, level.norm, float(r)) for f, r in zip(fibres, radii.reshape(-1), strict=True)]
        radii = np.asarray(projected, dtype=np.float64).reshape(v.shape)
    return radii


def project_vector(v: Float64Array, norm: Norm, radius: float) -> Float64Array:
    """Project one non-negative vector onto a ball."""
    return v if float(norm.reference_norm(v)) <= radius else norm.reference_project(v, radius)
