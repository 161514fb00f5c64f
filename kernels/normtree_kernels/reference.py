"""The oracle: the definitions in plain NumPy, fibre by fibre, with a sort; slow and obvious."""

from math import prod

import numpy as np

from normtree_kernels.arguments import check_out, check_threads
from normtree_kernels.dtypes import Array, Float64Array, check_tensor
from normtree_kernels.euclidean import merged, needs_own_algorithm
from normtree_kernels.goal import Goal
from normtree_kernels.norms import Axes, MixedNorm

_BISECTIONS = 200


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
        v = vector_norm(v, level.norm)
    survivors = goal.survivors(v.size)
    descending = np.append(np.sort(v)[::-1], 0.0)
    return float((descending[:survivors] - descending[survivors]).sum())


def nearest_l1_linf(fibres: Float64Array, radius: float) -> Float64Array:
    """Project non-negative fibres, one a row, on the l1,linf ball: bisection on theta, a sorted threshold for each."""
    if float(fibres.max(axis=1, initial=0.0).sum()) <= radius:
        return fibres
    low, high = 0.0, float(fibres.sum(axis=1).max())
    for _ in range(_BISECTIONS):
        theta = (low + high) / 2
        if _water_levels(fibres, theta).sum() > radius:
            low = theta
        else:
            high = theta
    return np.asarray(np.minimum(fibres, _water_levels(fibres, high)[:, None]))


def _water_levels(fibres: Float64Array, theta: float) -> Float64Array:
    """mu_j with sum of max(|y| - mu_j, 0) = theta, 0 where the whole fibre is less: its l1 threshold."""
    kept = [project_vector(fibre, "l1", theta) for fibre in fibres]
    return np.array([(fibre - left).max(initial=0.0) for fibre, left in zip(fibres, kept, strict=True)])


def norm(y: Array, norm: str | MixedNorm, *, axes: Axes | None = None) -> float:
    """Evaluate a mixed norm in float64; arguments as `project`."""
    y = check_tensor(y, "y")
    mixed = MixedNorm.parse(norm, axes, ndim=y.ndim)
    values = np.abs(y.astype(np.float64)).transpose(mixed.order)
    for level in reversed(mixed.levels):
        kept = values.shape[: values.ndim - len(level.axes)]
        length = prod(values.shape[len(kept) :])
        values = vector_norm(values.reshape(*kept, length), level.norm)
    return float(values)


def project_levels(values: Float64Array, mixed: MixedNorm, radius: float) -> Float64Array:
    """Project non-negative values, one axis a level, by the definition of MP."""
    aggregates = [values]
    for level in reversed(mixed.levels[1:]):
        aggregates.append(vector_norm(aggregates[-1], level.norm))
    radii: Float64Array = np.asarray(radius)
    for level, v in zip(mixed.levels, reversed(aggregates), strict=True):
        fibres = v.reshape(radii.size, v.shape[-1])
        projected = [project_vector(f, level.norm, float(r)) for f, r in zip(fibres, radii.reshape(-1), strict=True)]
        radii = np.asarray(projected, dtype=np.float64).reshape(v.shape)
    return radii


def vector_norm(values: Float64Array, norm: str) -> Float64Array:
    """Norm of each vector along the last axis of non-negative values."""
    if norm == "linf":
        return np.asarray(values.max(axis=-1, initial=0.0))
    if norm == "l1":
        return np.asarray(values.sum(axis=-1))
    largest = values.max(axis=-1, initial=0.0, keepdims=True)
    scaled = np.divide(values, largest, out=np.zeros_like(values), where=largest > 0)
    return np.asarray(largest[..., 0] * np.sqrt((scaled**2).sum(axis=-1)))


def project_vector(v: Float64Array, norm: str, radius: float) -> Float64Array:
    """Project one non-negative vector onto a ball: clip, scale, or soft-threshold at the sorted vector's threshold."""
    total = float(vector_norm(v, norm))
    if total <= radius:
        return v
    if norm == "linf":
        return np.asarray(np.minimum(v, radius))
    if norm == "l2":
        return np.asarray(v * (radius / total))
    descending = np.sort(v)[::-1]
    thresholds = (np.cumsum(descending) - radius) / np.arange(1, v.size + 1)
    active = np.flatnonzero(descending > thresholds)
    tau = thresholds[active[-1]] if active.size else descending[0]
    return np.asarray(np.maximum(v - tau, 0.0))
