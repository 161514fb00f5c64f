"""The compact form of a projection: its surviving outermost groups only, and where they belong.

The outermost level's axes are merged to one, at the place of the first of them, and shortened to the groups that
survive: of columns that vanish, a narrower matrix is left.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normtree.splits import parse_split
from normtree_kernels.arrays import Held
from normtree_kernels.norms.linf import LINF
from normtree_kernels.norms.mixed_norm import Level, MixedNorm

Array = NDArray[Any]
Int64Array = NDArray[np.int64]


@dataclass(frozen=True)
class Compact:
    """A tensor without its zero groups.

    Args:
        index: int64, ascending: which outermost groups survive, counted in C order over the outermost axes.
        values: their elements: the tensor with the outermost axes merged and shortened.
        shape: of the whole tensor, as it is seen.
        axes: the outermost level's axes, ascending.
        split: how it is seen in that shape, where it is not its own; see `normtree.splits`.
    """

    index: Int64Array
    values: Array
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    split: str = ""


def short_shape(shape: Sequence[int], axes: Sequence[int], groups: int) -> tuple[tuple[int, ...], int]:
    """Return the shape of the values when so many groups survive, and which of its axes tells them apart.

    Args:
        shape: of the whole tensor.
        axes: the outermost level's axes, ascending.
        groups: how many survive.
    """
    rest = [length for axis, length in enumerate(shape) if axis not in axes]
    place = min(axes, default=0)
    return (*rest[:place], groups, *rest[place:]), place


def from_beginning(memory: Array, index: Int64Array, shape: Sequence[int], axes: Sequence[int]) -> Compact:
    """Take the values from where they lie one beside the other.

    Args:
        memory: one axis; the values, in C order, at its beginning.
        index: int64, ascending: which outermost groups they are.
        shape: of the whole tensor.
        axes: the outermost level's axes, ascending.

    Returns:
        The form; its values are a view of ``memory``.
    """
    short, _ = short_shape(shape, axes, len(index))
    return Compact(index, memory[: prod(short)].reshape(short), tuple(shape), tuple(axes))


def compress(x: Array, axes: Sequence[int], *, threads: int = 1) -> Compact:
    """Leave out the groups that are zero.

    Args:
        x: the tensor, C order. Not changed.
        axes: the outermost level's axes, ascending.
        threads: threads that look for zeros.

    Returns:
        The form, in memory of its own.

    Cost:
        Reads the tensor once and its surviving groups twice.
    """
    index = np.flatnonzero(_alive(x, axes, threads)) if x.size else np.empty(0, np.int64)
    merged, axis = _merge(x, axes)
    return Compact(index, np.take(merged, index, axis), x.shape, tuple(axes))


def compress_in_place(x: Array, axes: Sequence[int], *, threads: int = 1) -> Compact:
    """Leave out the groups that are zero, and move the others to the beginning of the tensor's own memory.

    Args:
        x: the tensor, C order, writable. What it holds afterwards is the form's values, then what was there.
        axes: the outermost level's axes, ascending.
        threads: threads that look for zeros.

    Cost:
        As `compress`, and writes the surviving groups twice.
    """
    made = compress(x, axes, threads=threads)
    memory = x.reshape(-1)
    memory[: made.values.size] = made.values.reshape(-1)
    return from_beginning(memory, made.index, x.shape, axes)


def expand(
    index: Int64Array, values: Array, shape: Sequence[int], axes: Sequence[int], split: str | None = None
) -> Array:
    """Put groups back where they belong, among zeros: the inverse of `compress`.

    Args:
        index: which outermost groups they are.
        values: their elements.
        shape: of the whole tensor.
        axes: the outermost level's axes, ascending; counted after ``split``.
        split: which axes were seen as several; see `normtree.splits`.

    Returns:
        A new array.

    Raises:
        ValueError, IndexError: the parts do not fit each other.
    """
    own, shape = shape, parse_split(split).seen(shape)
    rest = [axis for axis in range(len(shape)) if axis not in axes]
    place = min(axes, default=0)
    order = [*rest[:place], *axes, *rest[place:]]
    moved = np.zeros([shape[axis] for axis in order], values.dtype)
    merged, axis = _merge(moved, range(place, place + len(axes)))
    merged[(slice(None),) * axis + (index,)] = values
    return np.ascontiguousarray(moved.transpose(np.argsort(order))).reshape(own)


def _alive(x: Array, axes: Sequence[int], threads: int) -> NDArray[np.bool_]:
    """Which outermost groups hold something else than zeros."""
    rest = tuple(axis for axis in range(x.ndim) if axis not in axes)
    if not rest:
        return np.not_equal(x.reshape(-1), 0)
    largest = MixedNorm((Level(LINF, tuple(axes)), Level(LINF, rest)))
    alive: NDArray[np.bool_] = Held(x, largest, threads).norms().reshape(-1) > 0.0
    return alive


def _merge(x: Array, axes: Sequence[int]) -> tuple[Array, int]:
    """Merge axes to one, at the place of the first of them; a view wherever they are neighbours."""
    rest = [axis for axis in range(x.ndim) if axis not in axes]
    place = min(axes, default=0)
    ordered = x.transpose([*rest[:place], *axes, *rest[place:]])
    groups = prod(x.shape[axis] for axis in axes)
    return ordered.reshape(*ordered.shape[:place], groups, *ordered.shape[place + len(axes) :]), place
