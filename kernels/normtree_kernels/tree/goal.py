"""Goals: what a projection is to reach, given as a radius, as a share of groups or as a number of groups."""

import math
import warnings
from collections.abc import Callable, Generator
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np

from normtree_kernels.arguments import check_groups, check_radius, check_share
from normtree_kernels.dtypes import Float64Array
from normtree_kernels.norms.l1 import L1
from normtree_kernels.norms.mixed_norm import NORMS, MixedNorm
from normtree_kernels.refusals import ValueRefused
from normtree_kernels.sweeps import sweep
from normtree_kernels.vector_norm import Norm

_STEP = 2.0**-52
_CHECKS: dict[str, Callable[[object], Any]] = {"radius": check_radius, "sparsity": check_share, "groups": check_groups}


@dataclass(frozen=True)
class Reach:
    """The radius that reaches a goal, and how many outermost groups that leaves.

    Args:
        radius: of the ball.
        asked: groups that were to survive at most; None where the goal was a radius.
        left: groups that do; fewer where some are tied with the first that is to vanish, for ties share one fate. Zeros
            alone have nothing to lose: of them all that were asked for are left.
    """

    radius: float
    asked: int | None = None
    left: int | None = None

    @property
    def warning(self) -> str:
        """What a person should know: that groups were asked for, and none is left; else nothing."""
        return nothing_left(self.asked, self.left)


class NothingLeftWarning(UserWarning):
    """Groups were asked for, and none is left: the largest are tied."""


def warn(reach: Reach) -> None:
    """Warn whoever called the library where `Reach.warning` says something."""
    if reach.warning:
        warnings.warn(reach.warning, NothingLeftWarning, stacklevel=3)


def nothing_left(asked: int | None, left: int | None) -> str:
    """Say that groups were asked for, and none is left; nothing where that is not so."""
    if not asked or left != 0:
        return ""
    return f"no group is left of the {asked} asked for: the largest are tied, and ties share one fate"


@dataclass(frozen=True)
class Goal:
    """What a projection is to reach: exactly one of the three.

    Args:
        radius: radius of the ball, in the units of the elements; finite and >= 0.
        sparsity: share of the outermost groups that vanishes at least, 0 to 1.
        groups: number of outermost groups that survive at most, >= 0.

    Raises:
        TypeError: not a number of its kind.
        ValueError: none or several given, or out of range.
    """

    radius: float | None = None
    sparsity: float | None = None
    groups: int | None = None

    def __post_init__(self) -> None:
        """Refuse anything but exactly one, and keep it as a plain number."""
        given = [field.name for field in fields(self) if getattr(self, field.name) is not None]
        if len(given) != 1:
            got = " and ".join(given) or "none"
            wanted = "exactly one of radius, sparsity, groups"
            raise ValueRefused("radius", wanted, got, f"{wanted} is wanted, got {got}")
        object.__setattr__(self, given[0], _CHECKS[given[0]](getattr(self, given[0])))

    def check_fits(self, mixed: MixedNorm, shape: tuple[int, ...]) -> None:
        """Refuse a goal that a norm, or a tensor of that shape, cannot reach.

        Raises:
            ValueError: groups of an outermost level that makes none vanish, or more groups than there are.
        """
        outer = mixed.levels[0]
        self.check_groups(outer.norm, math.prod(shape[axis] for axis in outer.axes))

    def check_groups(self, outer: Norm, total: int | None = None) -> None:
        """Refuse a goal that ``total`` groups, or any number of them, under an outermost norm cannot reach.

        Raises:
            ValueError: groups of a norm that makes none vanish, or more groups than there are.
        """
        if self.radius is not None:
            return
        if not outer.vanishes:
            name = "sparsity" if self.groups is None else "groups"
            vanishing = " or ".join(norm.name for norm in NORMS.values() if norm.vanishes)
            why = f"only an outermost {vanishing} level makes groups vanish, got {outer}"
            raise ValueRefused(name, f"an outermost {vanishing} level", outer.name, why)
        if self.groups is not None and total is not None and self.groups > total:
            raise ValueRefused("groups", f"0 to {total}, the outermost groups there are", self.groups)

    @property
    def counts_groups(self) -> bool:
        """Whether it is a number or a share of groups."""
        return self.radius is None

    def for_norm(self, norm: float) -> "Goal":
        """What it is for a tensor, or tensors together, of that norm: the same for each."""
        return self

    def reach_of_nothing(self, total: int) -> Reach:
        """What is reached where all of ``total`` outermost groups have no elements."""
        asked = self.survivors(total) if self.counts_groups else None
        return Reach(self.radius or 0.0, asked, asked)

    def survivors(self, total: int) -> int:
        """How many outermost groups are to survive, of ``total``; for a goal that is no radius."""
        if self.groups is not None:
            return self.groups
        share = self.sparsity or 0.0
        vanishing = math.ceil(Fraction(share) * total)
        if vanishing and (vanishing - 1) / total >= share:  # the share is a rounded fraction of total: 0.1 of 30 is 3
            vanishing -= 1
        return total - vanishing

    def radius_of(self, v: Float64Array) -> float:
        """Find the radius that reaches this goal: that of `reach`."""
        return self.reach(v).radius

    def reach(self, v: Float64Array) -> Reach:
        """Find the radius that reaches this goal, in closed form, and how many groups it leaves.

        With the groups' norms sorted, v_1 >= v_2 >= …, exactly k groups survive the projection of radius
        sum over i <= k of (v_i - v_{k+1}). Groups tied with the first that is to vanish, vanish with it.

        Args:
            v: the outermost groups' norms, finite, one axis; of an outermost l1 level.
        """
        if self.radius is not None:
            return Reach(self.radius)
        survivors = self.survivors(v.size)
        if not v.any():
            return Reach(0.0, survivors, survivors)
        if survivors == v.size:
            return Reach(float(sweep.up(L1, v, 0)), survivors, int(np.count_nonzero(v)))
        tau = np.partition(v, v.size - survivors - 1)[v.size - survivors - 1]
        above = v[v > tau]
        most = float(sweep.up(L1, v, 0))  # what a sum rounded otherwise could exceed where tau is 0
        radius, left = _least_excess(v, above.size, min(math.fsum(above - tau), most))
        return Reach(radius, survivors, left)

    def __str__(self) -> str:
        """The goal in words: ``radius 10``, ``sparsity 0.9``, ``10 groups``."""
        if self.radius is not None:
            return f"radius {self.radius:g}"
        return f"sparsity {self.sparsity:g}" if self.sparsity is not None else f"{self.groups} groups"


@dataclass(frozen=True)
class Share:
    """What a projection is to reach: a radius that is a share of the norm.

    Args:
        share: of the norm, 0 to 1.
    """

    share: float
    counts_groups: ClassVar[bool] = False

    def for_norm(self, norm: float) -> Goal:
        """The radius for a tensor, or tensors together, of that norm."""
        return Goal(radius=self.share * norm)


Aim = Goal | Share


def _least_excess(v: Float64Array, survivors: int, radius: float) -> tuple[float, int]:
    """Lower the radius until rounding lets no group survive that is to vanish; and say how many do."""
    total = sweep.up(L1, v, 0)
    u = np.empty_like(v)
    search = lowered(radius, survivors)
    try:
        radius = next(search)
        while True:
            sweep.down(L1, v, 0, total, np.asarray(radius), u)
            radius = search.send(int(np.count_nonzero(u)))
    except StopIteration as found:
        radius, left = found.value
        return float(radius), int(left)


def lowered(radius: float, survivors: int) -> Generator[float, int, tuple[float, int]]:
    """Lower a radius bit by bit: yield radii, and be sent how many groups each leaves, until those are few enough.

    Returns:
        The radius, and how many groups it leaves.
    """
    step = _STEP
    while radius > 0.0:
        left = yield radius
        if left <= survivors:
            return radius, left
        radius -= radius * step
        step *= 2.0
    return 0.0, 0
