"""A tensor in a file: rows that lie one after the other, and in each the axes along and across its fibres."""

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from normtree.splits import NO_SPLIT, Split
from normtree_kernels.dtypes import Array, Float64Array
from normtree_kernels.norms.mixed_norm import MixedNorm


@dataclass(frozen=True)
class Layout:
    """A tensor seen as (rows, length, width, rest…), in the order of its bytes.

    Its leading axes, as far as the innermost level keeps them, are merged to rows; those that follow and that the
    level aggregates to ``length``; those after them that it keeps to ``width``; the others are the rest. A row holds
    whole fibres. Of a matrix whose columns are the groups there is one row: its length is that of the columns, and
    its width their number.

    Args:
        shape: shape of the tensor, as it is seen.
        dtype: its element type, by NumPy's name.
        norm: mixed norm bound to its axes.
        split: how it is seen in that shape, where it is not its own.
    """

    shape: tuple[int, ...]
    dtype: str
    norm: MixedNorm
    split: Split = NO_SPLIT

    @cached_property
    def own_shape(self) -> tuple[int, ...]:
        """The tensor's own shape."""
        return self.split.own(self.shape)

    @cached_property
    def _edges(self) -> tuple[int, int, int]:
        """Axes at which the rows, the length and the width end."""
        kept, ndim = set(self.norm.kept_axes), len(self.shape)
        lead = next((axis for axis in range(ndim) if axis not in kept), ndim)
        along = next((axis for axis in range(lead, ndim) if axis in kept), ndim)
        across = next((axis for axis in range(along, ndim) if axis not in kept), ndim)
        return lead, along, across

    @cached_property
    def rows(self) -> int:
        """Number of rows."""
        return prod(self.shape[: self._edges[0]])

    @cached_property
    def length(self) -> int:
        """Merged length of the first axes of a row: they run along its fibres."""
        return prod(self.shape[self._edges[0] : self._edges[1]])

    @cached_property
    def width(self) -> int:
        """Merged length of the axes after them, that tell fibres apart."""
        return prod(self.shape[self._edges[1] : self._edges[2]])

    @cached_property
    def rest(self) -> tuple[int, ...]:
        """Shape of what is left of a row."""
        return self.shape[self._edges[2] :]

    @cached_property
    def rest_bytes(self) -> int:
        """Bytes of one index of rows, length and width."""
        return prod(self.rest) * self.element.itemsize

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.length * self.width * self.rest_bytes

    @cached_property
    def step(self) -> int:
        """Elements of a fibre that one index of the length holds."""
        return prod(self.shape[axis] for axis in self._rest_axes if axis not in self.norm.kept_axes)

    @cached_property
    def fibre(self) -> int:
        """Elements in a fibre."""
        return self.length * self.step

    @cached_property
    def element(self) -> np.dtype[Any]:
        """The element type."""
        return np.dtype(self.dtype)

    @cached_property
    def v_shape(self) -> tuple[int, ...]:
        """Shape of the fibres' norms, row after row: rows, width, and what the rest keeps."""
        return (self.rows, self.width, *(self.shape[axis] for axis in self._rest_axes if axis in self.norm.kept_axes))

    @cached_property
    def kept(self) -> int:
        """Number of axes that tell fibres apart in `fibres`."""
        return len(self.v_shape)

    def fibres(self, buffer: Array, length: int, width: int) -> Array:
        """View rows, or parts of them, as elements: the axes that tell fibres apart first, as the sweeps want them."""
        parts = buffer.view(self.element).reshape(-1, length, width, *self.rest)
        later = [3 + axis - self._edges[2] for axis in self._rest_axes]
        kept = [place for place, axis in zip(later, self._rest_axes, strict=True) if axis in self.norm.kept_axes]
        inner = [place for place in later if place not in kept]
        return parts.transpose([0, 2, *kept, 1, *inner])

    def to_norm(self, v: Float64Array) -> Float64Array:
        """Put the fibres' norms, row after row, into the norm's order of axes."""
        return v.reshape([self.shape[axis] for axis in self._sorted]).transpose(self._order)

    def to_rows(self, u: Float64Array) -> Float64Array:
        """Put fibres' radii in the norm's order of axes into the order of the rows."""
        return np.ascontiguousarray(u.transpose(np.argsort(self._order))).reshape(self.v_shape)

    @cached_property
    def _sorted(self) -> list[int]:
        return sorted(self.norm.kept_axes)

    @cached_property
    def _order(self) -> list[int]:
        return [self._sorted.index(axis) for axis in self.norm.kept_axes]

    @cached_property
    def _rest_axes(self) -> range:
        return range(self._edges[2], len(self.shape))
