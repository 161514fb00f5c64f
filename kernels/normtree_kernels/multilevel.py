"""The multi-level projection of a whole tensor, in this process."""

import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from numbers import Real
from typing import TypeVar

import numpy as np

from normtree_kernels import sweep
from normtree_kernels.blocks import Block, split
from normtree_kernels.dtypes import Array, Float64Array, check_tensor
from normtree_kernels.norms import Axes, MixedNorm
from normtree_kernels.tree import climb, crown

T = TypeVar("T")
R = TypeVar("R")


def project(
    y: Array,
    norm: str | MixedNorm,
    radius: float,
    *,
    axes: Axes | None = None,
    out: Array | None = None,
    threads: int = 1,
) -> Array:
    """Project a tensor onto a mixed-norm ball by the multi-level projection.

    Finds X with ``‖X‖ = min(radius, ‖Y‖)``, ``|X| <= |Y|`` and the signs of Y, level by level: aggregate norms
    up, project the outermost level's vector, push radii down. For one level, and for ``l1,l2``, X is the nearest point
    of the ball; for other mixed norms it is a point near it, found in linear work.

    Args:
        y: float32 or float64, any shape, strides and byte order; read-only and memory-mapped arrays too. Not changed.
        norm: norms of the levels from outer to inner, such as ``"l1,linf"``; or a `MixedNorm`.
        radius: radius of the ball, in the units of the elements; finite and >= 0.
        axes: the levels' axes from outer to inner, such as ``"1,0"``; see `MixedNorm.parse`.
        out: array of y's shape and dtype to write to; shares no memory with y.
        threads: threads to use, >= 1. They change the time, never a bit of the result.

    Returns:
        ``out``, or a new array of y's shape and dtype. Its norm, as `norm` evaluates it in float64, is at most
        ``radius``. When y is in the ball already, its elements bit for bit.

    Raises:
        TypeError: an argument of the wrong type; a dtype that cannot be projected.
        ValueError: an argument of the right type that cannot be: a negative radius, axes that do not fit, an element
            that is NaN or infinite (its index is told).

    Cost:
        Θ(size) work; two reads and one write of the tensor for l2 and linf leaves.

    Source:
        Perez and Barlaud, multi-level projection with exponential parallel speedup.
    """
    y = check_tensor(y, "y")
    mixed = MixedNorm.parse(norm, axes, ndim=y.ndim)
    radius = check_radius(radius)
    threads = check_threads(threads)
    result = np.empty_like(y, subok=False) if out is None else check_out(out, y)
    blocks = split(y.shape, mixed, threads)
    v = aggregate(y, mixed, blocks, threads)
    top = crown(mixed, v, radius)
    if not math.isfinite(top.norm):
        raise ValueError(describe_bad(y, "y", mixed))

    def leaf(block: Block) -> None:
        leaf_down(y, mixed, block, v, top.radii, result)

    run(leaf, blocks, threads)
    return result


def norm(y: Array, norm: str | MixedNorm, *, axes: Axes | None = None) -> float:
    """Evaluate a mixed norm in float64.

    Args:
        y: float32 or float64, any shape, strides and byte order. Not changed.
        norm: norms of the levels from outer to inner, such as ``"l1,linf"``; or a `MixedNorm`.
        axes: the levels' axes from outer to inner, such as ``"1,0"``; see `MixedNorm.parse`.

    Returns:
        The norm, summed in a fixed order: the same bits for any strides.

    Raises:
        TypeError, ValueError: as `project`.

    Cost:
        Reads the tensor once.
    """
    y = check_tensor(y, "y")
    mixed = MixedNorm.parse(norm, axes, ndim=y.ndim)
    total = float(climb(mixed, aggregate(y, mixed, split(y.shape, mixed, 1), 1))[-1])
    if not math.isfinite(total):
        raise ValueError(describe_bad(y, "y", mixed))
    return total


def aggregate(y: Array, norm: MixedNorm, blocks: tuple[Block, ...], threads: int) -> Float64Array:
    """Up-sweep the leaves: V_1, in the shape of the kept axes in the norm's order."""
    v = np.empty([y.shape[axis] for axis in norm.kept_axes])

    def leaf(block: Block) -> None:
        v[block.index(norm.kept_axes)] = leaf_up(y, norm, block)

    run(leaf, blocks, threads)
    return v


def leaf_up(y: Array, norm: MixedNorm, block: Block) -> Float64Array:
    """Up-sweep one block of a tensor: the norms of its fibres, in the shape of its kept axes."""
    return sweep.up(norm.inner.norm, _in_order(y, norm, block), len(norm.kept_axes))


def leaf_down(y: Array, norm: MixedNorm, block: Block, v: Float64Array, radii: Float64Array, out: Array) -> None:
    """Down-sweep one block of a tensor, given the norms and radii of all of its fibres."""
    here = block.index(norm.kept_axes)
    source, target = _in_order(y, norm, block), _in_order(out, norm, block)
    sweep.down(norm.inner.norm, source, len(norm.kept_axes), v[here], radii[here], target)


def _in_order(array: Array, norm: MixedNorm, block: Block) -> Array:
    return array.transpose(norm.order)[block.index(norm.order)]


def run(function: Callable[[T], R], items: Iterable[T], threads: int) -> list[R]:
    """Apply a function to each item on that many threads; results in the items' order."""
    if threads == 1:
        return [function(item) for item in items]
    return list(_pool(threads).map(function, items))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="normtree-leaf")


def check_radius(radius: object) -> float:
    """Return the radius as a float if it is finite and >= 0.

    Raises:
        TypeError: not a real number.
        ValueError: negative, NaN or infinite.
    """
    if isinstance(radius, bool) or not isinstance(radius, Real | np.floating | np.integer):
        raise TypeError(f"radius: wanted a real number, got {type(radius).__name__}")
    value = float(radius)
    if not (math.isfinite(value) and value >= 0.0):
        raise ValueError(f"radius: must be finite and >= 0, got {value}")
    return abs(value)  # -0.0 is a zero like the other


def check_threads(threads: object) -> int:
    """Return the number of threads if it is an integer >= 1.

    Raises:
        TypeError: not an integer.
        ValueError: less than one.
    """
    if isinstance(threads, bool) or not isinstance(threads, int):
        raise TypeError(f"threads: wanted an integer, got {type(threads).__name__}")
    if threads < 1:
        raise ValueError(f"threads: must be >= 1, got {threads}")
    return threads


def check_out(out: object, y: Array) -> Array:
    """Return ``out`` if the projection of y can be written to it.

    Raises:
        TypeError: no array, or of another dtype.
        ValueError: another shape, read-only, or memory shared with y.
    """
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out: wanted a numpy.ndarray, got {type(out).__name__}")
    if out.dtype != y.dtype:
        raise TypeError(f"out: wanted dtype {y.dtype}, got {out.dtype}")
    if out.shape != y.shape:
        raise ValueError(f"out: wanted shape {y.shape}, got {out.shape}")
    if not out.flags.writeable:
        raise ValueError("out: wanted a writable array, got a read-only one")
    if np.may_share_memory(out, y) and np.shares_memory(out, y):
        raise ValueError("out: must share no memory with y")
    return out


def describe_bad(y: Array, name: str, norm: MixedNorm) -> str:
    """Say which element, the first in C order, is NaN or infinite; or that the norm overflows."""
    slabs = y if y.ndim else y.reshape(1)
    for i, slab in enumerate(slabs):
        bad = np.argwhere(~np.isfinite(slab))
        if len(bad):
            index = (i, *(int(k) for k in bad[0])) if y.ndim else ()
            return f"{name}: element {list(index)} is {y[index]}; every element must be finite"
    return f"{name}: its norm ({norm}) overflows float64; scale it down"
