"""The removal plan: which rows, columns or filters of a checkpoint are zero, and how large layers are without them."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from normtree.formats.elements import BY_NAME
from normtree.jobs.plan.facts import Facts
from normtree.splits import parse_split

_MATRIX = 2


@dataclass(frozen=True)
class Removal:
    """What can be removed of one tensor.

    Args:
        tensor: its name.
        shard: the file it is in.
        kind: ``rows``, ``columns``, ``filters``, or ``groups`` of another kind.
        axis: the axis along which they lie; None where several axes tell groups apart, and no size shrinks.
        zero: how many are zero.
        of: how many there are.
        indices: which, as ranges.
        shape: the tensor's shape.
        shape_without: its shape without them.
        bytes_saved: bytes of elements that go with them.
    """

    tensor: str
    shard: str
    kind: str
    axis: int | None
    zero: int
    of: int
    indices: str
    shape: tuple[int, ...]
    shape_without: tuple[int, ...]
    bytes_saved: int

    def as_dict(self) -> dict[str, Any]:
        """The removal as plain values, for JSON."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


def removals_of(facts: Iterable[Facts]) -> list[Removal]:
    """Plan what can be removed of tensors of which outermost groups are zero."""
    return [_removal(each) for each in facts if len(each.groups) > 1 and each.zero_groups[0]]


def _removal(facts: Facts) -> Removal:
    outer = [int(axis) for axis in facts.axes.split(",")[0].split(".") if axis]
    axis, width, shape = None, 1, list(facts.shape)
    if len(outer) == 1:
        axis, width = _own_axis(facts, outer[0])
        shape[axis] -= width * facts.zero_groups[0]
    gone = math.prod(facts.shape) - math.prod(shape)
    return Removal(
        tensor=facts.name,
        shard=facts.shard,
        kind=_kind(axis, len(facts.shape)) if width == 1 else f"parts of {width} of axis {axis}",
        axis=axis,
        zero=facts.zero_groups[0],
        of=facts.groups[0],
        indices=facts.zeros,
        shape=facts.shape,
        shape_without=tuple(shape),
        bytes_saved=gone * BY_NAME[facts.dtype].itemsize,
    )


def _own_axis(facts: Facts, seen: int) -> tuple[int, int]:
    """Tell which of a tensor's own axes one that is seen is a part of, and how many indices of it make up a group."""
    axis = parse_split(facts.split).owners(len(facts.shape))[seen]
    return axis, facts.shape[axis] // facts.seen[seen]


def _kind(axis: int | None, ndim: int) -> str:
    if axis is None:
        return "groups"
    if ndim == _MATRIX:
        return ("rows", "columns")[axis]
    return "filters" if axis == 0 and ndim > _MATRIX else f"slices of axis {axis}"
