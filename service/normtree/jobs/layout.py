"""A tensor in a file as rows that lie one after the other and each hold whole fibres."""

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from normtree_kernels.dtypes import BFLOAT16, Array, Float64Array
from normtree_kernels.norms import MixedNorm


@dataclass(frozen=True)
class Layout:
    """The rows of a tensor: its leading axes, as far as the innermost level keeps them, merged to one.

    A tensor whose first axis the innermost level aggregates is a single row.

    Args:
        shape: shape of the tensor.
        dtype: its element type, by NumPy's name.
        norm: mixed norm bound to its axes.
    """

    shape: tuple[int, ...]
    dtype: str
    norm: MixedNorm

    @property
    def lead(self) -> int:
        """Number of axes that were merged to the rows."""
        kept = set(self.norm.kept_axes)
        return next((axis for axis in range(len(self.shape)) if axis not in kept), len(self.shape))

    @property
    def rows(self) -> int:
        """Number of rows."""
        return prod(self.shape[: self.lead])

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return prod(self.shape[self.lead :]) * self.element.itemsize

    @property
    def element(self) -> np.dtype[Any]:
        """The element type."""
        return BFLOAT16 if self.dtype == "bfloat16" else np.dtype(self.dtype)

    @property
    def kept(self) -> int:
        """Number of axes that tell fibres apart in `fibres`."""
        return 1 + len(self._later)

    @property
    def v_shape(self) -> tuple[int, ...]:
        """Shape of the fibres' norms, row after row."""
        return (self.rows, *(self.shape[axis] for axis in self._later))

    def fibres(self, buffer: Array) -> Array:
        """View rows of bytes as elements, the axes that tell fibres apart first, as the sweeps want them."""
        rest = self.shape[self.lead :]
        rows = buffer.view(self.element).reshape(-1, *rest)
        later = [1 + axis - self.lead for axis in self._later]
        inner = [1 + axis - self.lead for axis in self.norm.inner.axes]
        return rows.transpose([0, *later, *inner])

    def to_norm(self, v: Float64Array) -> Float64Array:
        """Put the fibres' norms, row after row, into the norm's order of axes."""
        return v.reshape([self.shape[axis] for axis in self._sorted]).transpose(self._order)

    def to_rows(self, u: Float64Array) -> Float64Array:
        """Put fibres' radii in the norm's order of axes into the order of the rows."""
        return np.ascontiguousarray(u.transpose(np.argsort(self._order))).reshape(self.v_shape)

    @property
    def _sorted(self) -> list[int]:
        return sorted(self.norm.kept_axes)

    @property
    def _order(self) -> list[int]:
        return [self._sorted.index(axis) for axis in self.norm.kept_axes]

    @property
    def _later(self) -> list[int]:
        return [axis for axis in self._sorted if axis >= self.lead]
