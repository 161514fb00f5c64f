"""The multi-level projection of a whole tensor, in this process."""

import math

import numpy as np

from normtree_kernels.arguments import check_out, check_threads, not_finite
from normtree_kernels.arrays import Held
from normtree_kernels.dtypes import Array, check_tensor
from normtree_kernels.norms.mixed_norm import Axes, MixedNorm
from normtree_kernels.tree import exact as euclidean
from normtree_kernels.tree.crown import climb
from normtree_kernels.tree.goal import Goal, warn
from normtree_kernels.tree.projection import drive
from normtree_kernels.tree.projection import project as ask


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
    """Project a tensor onto a mixed-norm ball.

    By default by the multi-level projection: find X with ``‖X‖ = min(radius, ‖Y‖)``, ``|X| <= |Y|`` and the signs of
    Y, level by level: aggregate norms up, project the outermost level's vector, push radii down. For one level, and
    for ``l1,l2``, X is the nearest point of the ball; for other mixed norms it is a point near it, found in linear
    work. With ``exact`` it is the nearest point: minimise ``‖X - Y‖_F`` over ``‖X‖ <= radius``.

    Args:
        y: float64, float32, float16 or bfloat16, any shape, strides and byte order; read-only and memory-mapped arrays
            too. Not changed, unless it is ``out`` as well.
        norm: norms of the levels from outer to inner, such as ``"l1,linf"``; or a `MixedNorm`.
        radius: radius of the ball, in the units of the elements; finite and >= 0.
        axes: the levels' axes from outer to inner, such as ``"1,0"``; see `MixedNorm.parse`.
        sparsity: instead of a radius, the share of the outermost groups that vanishes, 0 to 1; see `radius_for`.
        groups: instead of a radius, the number of outermost groups that survive at most: groups tied with the first
            that is to vanish, vanish with it.
        exact: whether X must be the nearest point; where no way to it is known, it raises with the reason.
        out: array of y's shape and dtype to write to; shares no memory with y, or is y itself. Then nothing is
            written before all arguments and elements are found good, and contiguous fibres inside their balls are
            left alone; a process that dies while it writes leaves y half projected.
        threads: threads to use, >= 1. They change the time, never a bit of the result.

    Returns:
        ``out``, or a new array of y's shape and dtype. Its norm, as `norm` evaluates it in float64, is at most
        ``radius``. When y is in the ball already, its elements bit for bit. A fibre that vanishes is +0.0 throughout;
        a zero of y in another may keep its sign.

    Raises:
        TypeError: an argument of the wrong type; a dtype that cannot be projected.
        ValueError: an argument of the right type that cannot be: a negative radius, axes that do not fit, an element
            that is NaN or infinite (its index is told), none or several of radius, sparsity and groups.

    Warns:
        NothingLeftWarning: groups were asked for, and all that could be left are tied, so that none is.

    Cost:
        Θ(size) work; two reads and one write of the tensor for l2 and linf leaves, a few reads more for l1 leaves and
        for the exact l1,linf.

    Source:
        Perez and Barlaud, multi-level projection with exponential parallel speedup; the exact l1,linf by Newton's
        method on its optimality conditions.
    """
    y = check_tensor(y, "y")
    mixed = MixedNorm.parse(norm, axes, ndim=y.ndim)
    goal = Goal(radius, sparsity, groups)
    goal.check_fits(mixed, y.shape)
    threads = check_threads(threads)
    own = exact and euclidean.needs_own_algorithm(mixed, goal)
    mixed = euclidean.merged(mixed) if own else mixed
    result = np.empty_like(y, subok=False) if out is None else check_out(out, y)
    if not y.size:  # its groups may be more than memory holds
        return result
    held = Held.of(y, mixed, goal, threads)
    found = drive(ask(held.problem(goal, own=own)), held.ask)
    if not found.top.is_finite:
        raise not_finite(y, "y", mixed)
    warn(found.top.reach)
    held.project(found.balls, result)
    return result


def norm(y: Array, norm: str | MixedNorm, *, axes: Axes | None = None) -> float:
    """Evaluate a mixed norm in float64.

    Args:
        y: float64, float32, float16 or bfloat16, any shape, strides and byte order. Not changed.
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
    total = float(climb(mixed, Held(y, mixed).norms())[-1]) if y.size else 0.0
    if not math.isfinite(total):
        raise not_finite(y, "y", mixed)
    return total
