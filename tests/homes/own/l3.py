"""A norm of somebody's own: the third root of the sum of cubes, its ball reached by scaling. Registered on import."""

import math

import numpy as np

from normtree_kernels import l2, rows
from normtree_kernels.dtypes import Array, Float64Array
from normtree_kernels.elements import widen
from normtree_kernels.jit import device
from normtree_kernels.linf import LINF
from normtree_kernels.norms import NORMS
from normtree_kernels.vector_norm import Norm

_INSIDE = 1.0 - 2.0**-40
_LEAST = 2.0**-960


@device
def _chunk_norm(x: Array) -> float:
    largest = 0.0
    for i in range(x.size):
        size = abs(widen(x[i]))
        if size > largest or math.isnan(size):
            largest = size
    if largest == 0.0 or not largest < np.inf:
        return largest
    total = 0.0
    for i in range(x.size):
        share = abs(widen(x[i])) / largest
        total += share * share * share
    return largest * math.pow(total, 1.0 / 3.0)


@device
def _project(
    x: Array,
    first: int,
    length: int,
    whole: int,
    v: float,
    u: float,
    room: tuple[Array, Float64Array],
    out: Array,
    at: int,
    streaming: bool,
) -> None:
    s = u / v * _INSIDE
    if min(s, u) < _LEAST:
        rows.clear(out, at, length, x[0], streaming)
    else:
        l2.scale(x, first, length, s, out, at, streaming)


class _L3(Norm):
    """The third root of the sum of cubes."""

    name = "l3"
    rows_up = staticmethod(rows.up(__name__, _chunk_norm, _chunk_norm))
    rows_down = staticmethod(rows.down(__name__, _project))
    margin = 2.0**-39

    @property
    def of_one(self) -> Norm:
        return LINF

    def growth(self, count: int) -> float:
        return math.pow(count, 1.0 / 3.0)

    def reference_norm(self, values: Float64Array) -> Float64Array:
        largest = values.max(axis=-1, initial=0.0, keepdims=True)
        scaled = np.divide(values, largest, out=np.zeros_like(values), where=largest > 0)
        return np.asarray(largest[..., 0] * np.cbrt((scaled**3).sum(axis=-1)))

    def reference_project(self, values: Float64Array, radius: float) -> Float64Array:
        largest = values.max()
        return np.asarray(values / largest / float(self.reference_norm(values / largest)) * radius)


NORMS["l3"] = _L3()
