"""The tree above the leaves: from the fibres' norms to the fibres' radii, through the root.

It works on the innermost aggregates only, an array smaller than the tensor by the length of its fibres.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from time import perf_counter_ns
from typing import Literal, NamedTuple

import numpy as np

from normtree_kernels.dtypes import Float64Array
from normtree_kernels.norms.mixed_norm import MixedNorm
from normtree_kernels.refusals import ValueRefused
from normtree_kernels.sweeps import sweep
from normtree_kernels.tree.goal import Aim, Reach
from normtree_kernels.vector_norm import Norm


class Step(NamedTuple):
    """One sweep of one upper level, as it was timed.

    Args:
        sweep: ``up`` or ``down``.
        level: index of the level in the mixed norm, 0 the outermost.
        start_ns: `time.perf_counter_ns` when it began.
        stop_ns: and when it ended.
        nbytes: bytes of aggregates read and written.
    """

    sweep: Literal["up", "down"]
    level: int
    start_ns: int
    stop_ns: int
    nbytes: int


@dataclass(frozen=True)
class Crown:
    """What the tree above the leaves says: each fibre's radius and the tensor's norm.

    Args:
        radii: float64, the shape of the kept axes in the norm's order: U_1.
        reach: the radius of the ball, NaN where the norm is not finite and the goal is no radius; and how many
            outermost groups were asked for and are left.
        norm: the tensor's mixed norm before projection.
        inside: whether the tensor already lies in the ball, so that it is its own projection.
        steps: the upper levels' sweeps in the order they ran: up to the root, then down.
    """

    radii: Float64Array
    reach: Reach
    norm: float
    inside: bool
    steps: tuple[Step, ...]

    @property
    def radius(self) -> float:
        """Of the ball."""
        return self.reach.radius

    @property
    def is_finite(self) -> bool:
        """Whether the norm is, of this tensor and of all under the same root; if not, the radii mean nothing."""
        return math.isfinite(self.norm) and not math.isnan(self.reach.radius)


def climb(norm: MixedNorm, v: Float64Array, steps: list[Step] | None = None) -> list[Float64Array]:
    """Up-sweep the upper levels: V_1 (given), V_2, … V_r, each with the axes of its levels merged to one.

    Args:
        norm: mixed norm of r levels.
        v: float64, shape of the kept axes in the norm's order: V_1.
        steps: where the sweeps' times are appended.

    Returns:
        r arrays; the last has no axes and is the mixed norm itself.
    """
    aggregates = [v.reshape(_level_sizes(norm, v.shape))]
    for index in reversed(range(len(norm.levels) - 1)):
        below = aggregates[-1]
        start_ns = perf_counter_ns()
        aggregates.append(sweep.up(norm.levels[index].norm, below, below.ndim - 1))
        if steps is not None:
            steps.append(Step("up", index, start_ns, perf_counter_ns(), below.nbytes))
    return aggregates


def crown(norm: MixedNorm, v: Float64Array, goal: Aim | Reach) -> Crown:
    """Project the aggregates: climb to the root, project there, push the radii down to the fibres.

    Args:
        norm: mixed norm bound to the tensor's axes.
        v: float64, shape of the kept axes in the norm's order, from `sweep.up`.
        goal: what to reach; a radius, or what is reached, where the norm has one level, whose groups are the elements.

    Returns:
        The fibres' radii; when ``v`` is not finite, neither is the norm, and the radii mean nothing.

    Cost:
        A few passes over ``v``.
    """
    steps: list[Step] = []
    aggregates = climb(norm, v, steps)
    total = float(aggregates[-1])
    reach = goal if isinstance(goal, Reach) else _reach(norm, aggregates, goal)
    u = np.asarray(min(reach.radius, total))
    if math.isfinite(total):
        u = _descend(norm, aggregates, u, 0, steps)
    if u.shape != aggregates[0].shape:  # the norm is not finite
        u = np.broadcast_to(u, aggregates[0].shape)
    radii = u.reshape(v.shape)
    return Crown(radii, reach, total, total <= reach.radius, tuple(steps))


def _reach(norm: MixedNorm, aggregates: list[Float64Array], aim: Aim) -> Reach:
    total = float(aggregates[-1])
    if not math.isfinite(total):
        return Reach(math.nan)
    goal = aim.for_norm(total)
    if goal.radius is not None:
        return Reach(goal.radius)
    if len(norm.levels) == 1:
        why = "of one level the groups are the elements; wanted a radius, found by their ranks"
        raise ValueRefused("goal", "a radius", str(goal), why)
    return goal.reach(aggregates[-2])


def crowns(norms: Sequence[MixedNorm], vs: Sequence[Float64Array], goal: Aim | Reach) -> list[Crown]:
    """Project the aggregates of several tensors under one root: their outermost groups, all together, are its vector.

    It is the projection of the tensors laid end to end along the outermost level: one ball for all of them.

    Args:
        norms: each tensor's mixed norm, two levels or more, bound to its axes; all with the same outermost norm.
        vs: each tensor's V_1, as for `crown`.
        goal: what to reach, with the outermost groups of all tensors together.

    Returns:
        For each tensor its fibres' radii and its own norm; ``inside`` tells of all tensors together. The same bits in
        whatever order the tensors are given: the root takes them by their aggregates' size and bytes. When a tensor's
        norm is not finite, no radius of any means anything.

    Raises:
        ValueError: no tensor, a norm of one level, or outermost norms that differ.

    Cost:
        A few passes over ``vs``.
    """
    outer = _common_root(norms)
    steps: list[list[Step]] = [[] for _ in norms]
    aggregates = [climb(*each) for each in zip(norms, vs, steps, strict=True)]
    tops = [levels[-2] for levels in aggregates]
    order = root_order(tops)
    joined = np.concatenate([tops[i] for i in order])
    total = float(sweep.up(outer, joined, 0))
    if not np.isfinite(total):
        return [_lost(v, levels, taken) for v, levels, taken in zip(vs, aggregates, steps, strict=True)]
    reach = goal if isinstance(goal, Reach) else goal.for_norm(total).reach(joined)
    u = np.empty_like(joined)
    sweep.down(outer, joined, 0, np.asarray(total), np.asarray(min(reach.radius, total)), u)
    ends = np.cumsum([tops[i].size for i in order])
    parts = dict(zip(order, np.split(u, ends[:-1]), strict=True))
    result = []
    for i, (norm, v, levels) in enumerate(zip(norms, vs, aggregates, strict=True)):
        radii = _descend(norm, levels, parts[i], 1, steps[i]).reshape(v.shape)
        result.append(Crown(radii, reach, float(levels[-1]), total <= reach.radius, tuple(steps[i])))
    return result


def root_order(tops: Sequence[Float64Array]) -> list[int]:
    """In which order a root takes several tensors, whatever the order in which they are given.

    Args:
        tops: each tensor's outermost groups' norms, V_{r-1}.
    """
    return sorted(range(len(tops)), key=lambda i: (tops[i].size, tops[i].tobytes()))


def _descend(
    norm: MixedNorm, aggregates: list[Float64Array], u: Float64Array, first: int, steps: list[Step]
) -> Float64Array:
    """Push the radii of level ``first`` down to the fibres."""
    for index, level in enumerate(norm.levels[first:-1], first):
        here, above = aggregates[-2 - index], aggregates[-1 - index]
        start_ns = perf_counter_ns()
        radii = np.empty_like(here)
        sweep.down(level.norm, here, here.ndim - 1, above, u, radii)
        steps.append(Step("down", index, start_ns, perf_counter_ns(), 2 * here.nbytes))
        u = radii
    return u


def _common_root(norms: Sequence[MixedNorm]) -> Norm:
    """Return the outermost norm that several tensors share."""
    outer = {norm.levels[0].norm for norm in norms}
    if len(outer) != 1:
        wanted, got = "one outermost norm for all tensors", ", ".join(sorted(map(str, outer))) or "none"
        raise ValueRefused("norms", wanted, got, f"{wanted} is wanted, got {got}")
    if any(len(norm.levels) == 1 for norm in norms):
        why = "a root over several tensors wants groups under it, two levels or more, got one level"
        raise ValueRefused("norms", "two levels or more", "one level", why)
    return outer.pop()


def _lost(v: Float64Array, aggregates: list[Float64Array], steps: list[Step]) -> Crown:
    """The crown of a tensor that stands under a root that is not finite."""
    return Crown(np.full(v.shape, np.nan), Reach(math.nan), float(aggregates[-1]), False, tuple(steps))


def _level_sizes(norm: MixedNorm, kept_shape: tuple[int, ...]) -> tuple[int, ...]:
    sizes, start = [], 0
    for level in norm.levels[:-1]:
        stop = start + len(level.axes)
        sizes.append(prod(kept_shape[start:stop]))
        start = stop
    return tuple(sizes)
