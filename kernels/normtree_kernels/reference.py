"""The oracle: the definitions in plain NumPy, fibre by fibre, with a sort; slow and obvious."""

from math import prod

import numpy as np

from normtree_kernels.dtypes import Array, Float64Array, check_tensor
from normtree_kernels.multilevel import check_radius
from normtree_kernels.norms import Axes, MixedNorm


def project(y: Array, norm: str | MixedNorm, radius: float, *, axes: Axes | None = None) -> Array:
    """Project a tensor onto a mixed-norm ball by the multi-level projection, in float64 and fibre by fibre.

    Args:
        y: float array, any shape. Not changed.
        norm: norms of the levels from outer to inner, such as ``"l1,linf"``; or a `MixedNorm`.
        radius: radius of the ball, finite and >= 0.
        axes: the levels' axes from outer to inner; see `MixedNorm.parse`.

    Returns:
        A new array of y's shape and dtype, each element the nearest to the exact value.

    Raises:
        TypeError, ValueError: as `normtree_kernels.project`.

    Cost:
        O(n log n), with a Python call for each fibre.
    """
    y = check_tensor(y, "y")
    mixed = MixedNorm.parse(norm, axes, ndim=y.ndim)
    values = np.abs(y.astype(np.float64)).transpose(mixed.order)
    shape = tuple(prod(y.shape[axis] for axis in level.axes) for level in mixed.levels)
    projected = project_levels(values.reshape(shape), mixed, check_radius(radius)).reshape(values.shape)
    signed = np.copysign(projected.transpose(np.argsort(mixed.order)), y)
    return np.asarray(np.where(signed == y, y, signed), dtype=y.dtype)


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
