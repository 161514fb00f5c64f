"""What is asked of blocks, and how they are cut: between fibres, or across them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

from normtree.errors import InvalidParameter, InvalidTensor, refusal
from normtree_kernels.euclidean import merged, needs_own_algorithm
from normtree_kernels.goal import Goal
from normtree_kernels.lanes import CHUNK
from normtree_kernels.norms import Axes, MixedNorm
from normtree_kernels.refusals import Refusal

_LEAST_ELEMENTS = 2 * CHUNK  # of an l1 fibre whose threshold is searched in rounds

Cut = Literal["fibres", "maxima", "chunks"]
"""Whole fibres; parts of which any numbers have a maximum; parts whose sums must keep their shape, chunk by chunk."""


@dataclass(frozen=True)
class Ask:
    """The arguments of a projection, before any block has been looked at.

    Args:
        norm: norms of the levels, as text.
        axes: the levels' axes.
        axis: along which the blocks lie.
        goal: what to reach.
        exact: whether it must be the Euclidean projection.
        count: number of blocks, >= 1.
    """

    norm: str
    axes: Axes | None
    axis: int
    goal: Goal
    exact: bool
    count: int

    def bind(self, ndim: int) -> "Bound":
        """Bind the norm to blocks of that many axes.

        Raises:
            InvalidParameter: it does not fit them, or no exact projection on it is known.
        """
        mixed: MixedNorm = checked(MixedNorm.parse, self.norm, self.axes, ndim=ndim)
        if not -ndim <= self.axis < ndim:
            detail, wanted = f"axis: {self.axis} is out of range for blocks of {ndim} axes", f">= {-ndim} and < {ndim}"
            raise InvalidParameter(detail, pointer="axis", limit=wanted, got=self.axis)
        if self.goal.radius is None and len(mixed.levels) == 1:
            name = "sparsity" if self.goal.groups is None else "groups"
            raise InvalidParameter(
                f"{name}: of one level the groups are the elements, and blocks are not ranked; give a radius",
                pointer=name,
            )
        own = self.exact and bool(checked(needs_own_algorithm, mixed, self.goal))
        return Bound(merged(mixed) if own else mixed, own, self.axis % ndim, self.count)


@dataclass(frozen=True)
class Bound:
    """A mixed norm bound to blocks.

    Args:
        mixed: the norm; for an exact projection on l1,linf,…,linf the one of two levels that equals it.
        own: whether the exact projection has an algorithm of its own, which reads the blocks in rounds.
        axis: along which the blocks lie, >= 0.
        count: number of blocks.
    """

    mixed: MixedNorm
    own: bool
    axis: int
    count: int

    @property
    def cut(self) -> Cut:
        """How the blocks cut the fibres."""
        if self.count == 1 or self.axis in self.mixed.kept_axes:
            return "fibres"
        return "maxima" if self.mixed.inner.norm == "linf" else "chunks"

    def check_starts(self, shape: tuple[int, ...], starts: Sequence[int]) -> None:
        """Refuse blocks across fibres whose sums could not keep the shape that they have in one process.

        Args:
            shape: of the tensor.
            starts: where along the axis each block begins.

        Raises:
            InvalidParameter: they begin in the middle of chunks, or their fibres are too short.
        """
        if self.cut == "fibres" or (self.cut == "maxima" and not self.own) or prod(shape) == 0:
            return
        inner = [axis for axis in self.mixed.inner.axes if shape[axis] > 1]
        if inner and inner[0] < self.axis and shape[self.axis] > 1:
            raise self._refused(f"wanted blocks along axis {inner[0]}, its outermost one")
        length = prod(shape[axis] for axis in inner)
        if length < _LEAST_ELEMENTS:
            raise self._refused(f"wanted fibres of at least {_LEAST_ELEMENTS} elements, got {length}")
        step = length // shape[self.axis]  # elements of a fibre at one index of the axis
        for number, start in enumerate(starts):
            if start * step % CHUNK and start < shape[self.axis]:
                raise self._refused(
                    f"wanted blocks that begin at a multiple of {CHUNK} elements of a fibre, "
                    f"got block {number} at {start * step}"
                )

    def _refused(self, wanted: str) -> InvalidParameter:
        return InvalidParameter(
            f"axis: {self.axis} belongs to the innermost level of {self.mixed}, whose sums keep their shape; {wanted}, "
            "or whole fibres in each block",
            pointer="axis",
        )


def checked(make: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call what checks its arguments, and tell which was wrong.

    Raises:
        InvalidTensor, InvalidParameter: where that refuses one.
    """
    try:
        return make(*args, **kwargs)
    except Refusal as error:
        raise refusal(error, InvalidTensor if error.name == "blocks" else InvalidParameter) from error
