"""The root of a job's trees: from the fibres' norms to their radii, for one tensor or for all of a rule together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from normtree.errors import InvalidTensor
from normtree_kernels.dtypes import Float64Array
from normtree_kernels.goal import Goal, Reach
from normtree_kernels.norms import MixedNorm
from normtree_kernels.refusals import ValueRefused
from normtree_kernels.tree import Crown, climb, crown, crowns

_GROUPS_ARE_FIBRES = 2  # levels; of so few the outermost groups are the fibres themselves


@dataclass(frozen=True)
class Aim:
    """What a projection is to reach: a goal, or a radius as a share of the norm.

    Args:
        goal: the goal; None for a share.
        relative_radius: the share, 0 to 1; None for a goal.
        settled: what reaches the goal, where that was found already.
    """

    goal: Goal | None = None
    relative_radius: float | None = None
    settled: Goal | Reach | None = None

    def for_norm(self, norm: float) -> Goal:
        """Return the goal for a tensor, or tensors together, of that norm."""
        if self.goal is not None:
            return self.goal
        return Goal(radius=(self.relative_radius or 0.0) * norm)


@dataclass(frozen=True)
class Top:
    """What a root found for one tensor.

    Args:
        crown: the fibres' radii in the norm's order of axes, the ball's radius, and the tensor's norm.
        threshold: groups up to it vanish: the root's l1 threshold; None for another norm at the root.
    """

    crown: Crown
    threshold: float | None


def top_of(norm: MixedNorm, v: Float64Array, aim: Aim) -> Top:
    """Find the root of one tensor.

    Args:
        norm: mixed norm bound to its axes.
        v: its fibres' norms in the norm's order of axes, finite.
        aim: what its projection is to reach; for a single level a radius.

    Raises:
        ValueRefused: the tensor's norm overflows.
    """
    total = float(climb(norm, v)[-1])
    if not math.isfinite(total):
        why = f"its norm ({norm}) overflows float64; scale the tensor down"
        raise ValueRefused("y", "a finite norm", math.inf, why)
    top = crown(norm, v, aim.settled or aim.for_norm(total))
    return Top(top, _threshold([norm], [v], [top]))


def tops_of(norms: Sequence[MixedNorm], vs: Sequence[Float64Array], aim: Aim) -> list[Top]:
    """Find the one root of several tensors; arguments as for `top_of`, in any order.

    Raises:
        InvalidTensor: their norm together overflows.
    """
    outer = norms[0].levels[0].norm
    totals = [float(climb(norm, v)[-1]) for norm, v in zip(norms, vs, strict=True)]
    total = _norm_of(outer, totals)
    if not math.isfinite(total):
        detail = f"the norm ({norms[0].text}) of the rule's tensors together overflows float64"
        raise InvalidTensor(detail, limit="a finite norm", got=math.inf)
    found = crowns(norms, vs, aim.for_norm(total))
    shared = _threshold(norms, vs, found)
    return [Top(top, shared) for top in found]


def outermost(norm: MixedNorm, v: Float64Array) -> Float64Array:
    """The outermost groups' norms, in one row; for a single level the tensor is its own only group."""
    return climb(norm, v)[-2] if len(norm.levels) > _GROUPS_ARE_FIBRES else v.reshape(-1)


def _norm_of(norm: str, values: Sequence[float]) -> float:
    """One norm of non-negative values, the same in any order."""
    if norm == "linf":
        return max(values)
    try:
        return math.fsum(values) if norm == "l1" else math.hypot(*sorted(values))
    except OverflowError:
        return math.inf


def _threshold(norms: Sequence[MixedNorm], vs: Sequence[Float64Array], tops: Sequence[Crown]) -> float | None:
    """The most that the root takes away from a group's norm: groups of this norm and less vanish."""
    if norms[0].levels[0].norm != "l1" or len(norms[0].levels) == 1:
        return None
    taken = [
        float((outermost(norm, v) - outermost(norm, top.radii)).max(initial=0.0))
        for norm, v, top in zip(norms, vs, tops, strict=True)
    ]
    return max(taken)
