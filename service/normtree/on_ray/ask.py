"""What is asked of blocks, before any has been looked at, and when the number of their axes is known."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from normtree.errors import InvalidParameter, InvalidTensor, refusal
from normtree_kernels.compiled.lanes import CHUNK
from normtree_kernels.norms.mixed_norm import Axes, MixedNorm
from normtree_kernels.refusals import Refusal
from normtree_kernels.tree.exact import merged, needs_own_algorithm
from normtree_kernels.tree.goal import Goal
from normtree_kernels.tree.projection import ranks_elements
from normtree_kernels.vector_norm import Norm


@dataclass(frozen=True)
class Ask:
    """The arguments of a projection, before any block has been looked at.

    Args:
        norm: norms of the levels, as they are here: a worker may not know them by their names.
        axes: the levels' axes.
        axis: along which the blocks lie.
        goal: what to reach.
        exact: whether it must be the Euclidean projection.
        count: number of blocks, >= 1.
    """

    norm: tuple[Norm, ...]
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
        axis = self.axis % ndim
        own = self.exact and bool(checked(needs_own_algorithm, mixed, self.goal))
        mixed = merged(mixed) if own else mixed
        across = self.count > 1 and axis not in mixed.kept_axes
        summed = across and (own or not mixed.inner.norm.cuts_anywhere)
        return Bound(mixed, own, axis, across, summed or ranks_elements(mixed, self.goal))


@dataclass(frozen=True)
class Bound:
    """A mixed norm bound to blocks.

    Args:
        mixed: the norm; for an exact projection on l1,linf,…,linf the one of two levels that equals it.
        own: whether the exact projection has an algorithm of its own.
        axis: along which the blocks lie, >= 0.
        across: whether they may cut fibres.
        in_chunks: whether they answer chunk by chunk; see `normtree_kernels.parts.part.Part`.
    """

    mixed: MixedNorm
    own: bool
    axis: int
    across: bool
    in_chunks: bool

    def check_starts(self, shape: tuple[int, ...], starts: Sequence[int]) -> None:
        """Refuse blocks across fibres whose sums could not keep the shape that they have in one process.

        Args:
            shape: of the tensor.
            starts: where along the axis each block begins.

        Raises:
            InvalidParameter: they begin in the middle of chunks.
        """
        inner = [axis for axis in self.mixed.inner.axes if shape[axis] > 1]
        if not (self.across and self.in_chunks and self.axis in inner) or 0 in shape:
            return
        if inner[0] < self.axis:
            raise self._refused(f"wanted blocks along axis {inner[0]}, its outermost one")
        step = prod(shape[axis] for axis in inner[1:])  # elements of a fibre at one index of the axis
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
