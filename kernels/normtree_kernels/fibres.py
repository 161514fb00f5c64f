"""How the fibres of a block lie in memory, and so which kernels can sweep them in place.

A block is seen with its kept axes first and the innermost level's axes last. Neighbouring axes that one stride can
walk are merged. Then fibres are *rows* (their elements are neighbours), *columns* (the fibres are neighbours) or, for
anything else (axes that do not merge, reversed, unaligned or byte-swapped elements), *packed* panel by panel.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from types import EllipsisType
from typing import Literal

import numpy as np

from normtree_kernels.dtypes import Array, Int64Array, storage

PANEL_FIBRES = 1 << 16
PANEL_BYTES = 1 << 18


@dataclass(frozen=True)
class Axis:
    """A run of merged axes: its length and, for each array walked together, the elements from one to the next."""

    length: int
    steps: tuple[int, ...]


@dataclass(frozen=True)
class Fibres:
    """The fibres of one or more arrays of the same shape, walked together.

    Args:
        kind: ``rows``, ``columns`` or ``packed``.
        kept: the axes that tell fibres apart; for columns without the last, which runs across them.
        length: elements in a fibre.
        steps: elements from one of a fibre's elements to the next, for each array.
        width: number of columns side by side; 1 for rows.
    """

    kind: Literal["rows", "columns", "packed"]
    kept: tuple[Axis, ...] = ()
    length: int = 0
    steps: tuple[int, ...] = ()
    width: int = 1

    def panels(self) -> Iterator[tuple[slice, list[Int64Array]]]:
        """Yield ranges of fibres and, for each array, where in it they (or their first column) begin."""
        count = prod(axis.length for axis in self.kept)
        for start in range(0, count, PANEL_FIBRES):
            index = np.arange(start, min(start + PANEL_FIBRES, count))
            yield slice(start * self.width, (start + index.size) * self.width), self._offsets(index)

    def _offsets(self, index: Int64Array) -> list[Int64Array]:
        offsets = [np.zeros(index.size, np.int64) for _ in self.steps]
        for axis in reversed(self.kept):
            index, here = np.divmod(index, axis.length)
            for offset, step in zip(offsets, axis.steps, strict=True):
                offset += here * step
        return offsets


def lay_out(kept: int, *arrays: Array) -> Fibres:
    """Find how the fibres of arrays of one shape lie, when their first ``kept`` axes tell the fibres apart."""
    if not all(_is_plain(array) for array in arrays):
        return Fibres("packed")
    outer, inner = _merge(arrays, 0, kept), _merge(arrays, kept, arrays[0].ndim)
    if len(inner) > 1:
        return Fibres("packed")
    units = (1,) * len(arrays)
    fibre = inner[0] if inner else Axis(1, units)
    across = bool(outer) and outer[-1].steps == units
    if across and (not inner or fibre.steps != units):
        return Fibres("columns", tuple(outer[:-1]), fibre.length, fibre.steps, outer[-1].length)
    if fibre.steps == units:
        return Fibres("rows", tuple(outer), fibre.length, fibre.steps)
    return Fibres("packed")


def flat(array: Array) -> Array:
    """View the memory that a plain array spans as one row of elements, as kernels see them, read-only."""
    span = 1 + sum((n - 1) * step // array.itemsize for n, step in zip(array.shape, array.strides, strict=True))
    return np.lib.stride_tricks.as_strided(storage(array), (span,), (array.itemsize,), writeable=False)


def flat_out(array: Array) -> Array:
    """View the memory that a plain writable array spans as one row of elements, as kernels see them."""
    return np.lib.stride_tricks.as_strided(storage(array), flat(array).shape, (array.itemsize,))


def packed_panels(array: Array, kept: int) -> Iterator[tuple[slice | EllipsisType, ...]]:
    """Yield index ranges over the kept axes whose fibres fit a scratch panel; at least one fibre each."""
    fibre_bytes = array.itemsize * prod(array.shape[kept:])
    axis, fibres = kept, 1
    while axis > 0 and fibres * array.shape[axis - 1] * fibre_bytes <= PANEL_BYTES:
        axis -= 1
        fibres *= array.shape[axis]
    if axis == 0:
        yield (...,)
        return
    thick = max(1, PANEL_BYTES // (fibres * fibre_bytes))
    for outer in np.ndindex(*array.shape[: axis - 1]):
        for start in range(0, array.shape[axis - 1], thick):
            yield (*(slice(i, i + 1) for i in outer), slice(start, start + thick))


def _is_plain(array: Array) -> bool:
    walks = all(step >= 0 and step % array.itemsize == 0 for step in array.strides)
    return walks and bool(array.flags.aligned) and array.dtype.isnative


def _merge(arrays: tuple[Array, ...], start: int, stop: int) -> list[Axis]:
    axes: list[Axis] = []
    for i in range(start, stop):
        length = arrays[0].shape[i]
        steps = tuple(array.strides[i] // array.itemsize for array in arrays)
        if length == 1:
            continue
        if axes and axes[-1].steps == tuple(length * step for step in steps):
            axes[-1] = Axis(axes[-1].length * length, steps)
        else:
            axes.append(Axis(length, steps))
    return axes
