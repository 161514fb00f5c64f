"""How the fibres of a block lie in memory, and so which kernels can sweep them in place.

A block is seen with its kept axes first and the innermost level's axes last. Neighbouring axes that one stride can
walk are merged. Then fibres are *rows* (their elements are neighbours), *columns* (the fibres are neighbours) or, for
anything else (axes that do not merge, reversed, unaligned or byte-swapped elements), *packed* panel by panel.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from types import EllipsisType
from typing import Literal

import numpy as np

from normtree_kernels.dtypes import Array, Int64Array, storage

PANEL_FIBRES = 1 << 16
PANEL_BYTES = 1 << 18
# Layouts of small tensors are kept, since to find one takes longer than to sweep one: so many of so many fibres.
_LAYOUTS_KEPT = 256
_KEPT_FIBRES = 1 << 12


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
        """Yield ranges of fibres and, for each array, where in it they (or their first column) begin: not to change."""
        if self._count <= _KEPT_FIBRES:
            yield self._only_panel
            return
        for start in range(0, self._count, PANEL_FIBRES):
            yield self._panel(start, min(start + PANEL_FIBRES, self._count))

    @cached_property
    def _count(self) -> int:
        return prod(axis.length for axis in self.kept)

    @cached_property
    def _only_panel(self) -> tuple[slice, list[Int64Array]]:
        return self._panel(0, self._count)

    def _panel(self, start: int, stop: int) -> tuple[slice, list[Int64Array]]:
        return slice(start * self.width, stop * self.width), self._offsets(np.arange(start, stop))

    def _offsets(self, index: Int64Array) -> list[Int64Array]:
        offsets = [np.zeros(index.size, np.int64) for _ in self.steps]
        for axis in reversed(self.kept):
            index, here = np.divmod(index, axis.length)
            for offset, step in zip(offsets, axis.steps, strict=True):
                offset += here * step
        return offsets


def lay_out(kept: int, *arrays: Array) -> Fibres:
    """Find how the fibres of arrays of one shape lie, when their first ``kept`` axes tell the fibres apart."""
    for array in arrays:
        if not (array.flags.aligned and array.dtype.isnative):
            return Fibres("packed")
    walks = [(array.itemsize, array.strides) for array in arrays]
    return _lay_out(kept, arrays[0].shape, tuple(walks))


@lru_cache(_LAYOUTS_KEPT)
def _lay_out(kept: int, shape: tuple[int, ...], walks: tuple[tuple[int, tuple[int, ...]], ...]) -> Fibres:
    """Find the layout of arrays of one shape, each walked by an item's bytes and the strides of its axes."""
    if any(stride < 0 or stride % itemsize for itemsize, strides in walks for stride in strides):
        return Fibres("packed")
    steps = [tuple(strides[axis] // itemsize for itemsize, strides in walks) for axis in range(len(shape))]
    outer, inner = _merge(shape[:kept], steps[:kept]), _merge(shape[kept:], steps[kept:])
    if len(inner) > 1:
        return Fibres("packed")
    units = (1,) * len(walks)
    fibre = inner[0] if inner else Axis(1, units)
    across = bool(outer) and outer[-1].steps == units
    if across and (not inner or fibre.steps != units):
        return Fibres("columns", tuple(outer[:-1]), fibre.length, fibre.steps, outer[-1].length)
    if fibre.steps == units:
        return Fibres("rows", tuple(outer), fibre.length, fibre.steps)
    return Fibres("packed")


def flat(array: Array) -> Array:
    """View the memory that a plain array spans as one row of elements, as kernels see them, read-only."""
    row = flat_out(array)
    row.flags.writeable = False
    return row


def flat_out(array: Array) -> Array:
    """View the memory that a plain array spans as one row of elements, as kernels see them, writable if it is."""
    stored = storage(array)
    if stored.flags.c_contiguous:
        return stored.reshape(-1)
    if stored.flags.f_contiguous:
        return stored.T.reshape(-1)
    span = 1 + sum((n - 1) * step // array.itemsize for n, step in zip(array.shape, array.strides, strict=True))
    return np.lib.stride_tricks.as_strided(stored, (span,), (array.itemsize,))


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


def _merge(lengths: tuple[int, ...], steps: list[tuple[int, ...]]) -> list[Axis]:
    axes: list[Axis] = []
    for length, here in zip(lengths, steps, strict=True):
        if length == 1:
            continue
        if axes and axes[-1].steps == tuple(length * step for step in here):
            axes[-1] = Axis(axes[-1].length * length, here)
        else:
            axes.append(Axis(length, here))
    return axes
