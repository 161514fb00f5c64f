"""A norm of somebody's own: the third root of the sum of cubes, its ball reached by scaling. Registered on import."""

import math

import numpy as np

from normtree_kernels.compiled.elements import widen
from normtree_kernels.compiled.jit import device
from normtree_kernels.dtypes import Array, Float64Array
from normtree_kernels.norms import l2
from normtree_kernels.norms.l2 import L2
from normtree_kernels.norms.linf import LINF
from normtree_kernels.norms.mixed_norm import NORMS
from normtree_kernels.sweeps import rows
from normtree_kernels.vector_norm import Norm

_RUN = 32  # terms that are added in a row: few, so that rounding stays within the margin


@device
def _chunk_norm(x: Array) -> float:
    largest = 0.0
    for i in range(x.size):
        size = abs(widen(x[i]))
        if size > largest or math.isnan(size):
            largest = size
    if largest == 0.0 or not largest < np.inf:
        return largest
    exponent = math.frexp(largest)[1]
    half = -exponent // 2  # in two halves: 2**-exponent itself may be out of range
    total = 0.0
    for start in range(0, x.size, _RUN):
        cubes = 0.0
        for i in range(start, min(start + _RUN, x.size)):
            share = math.ldexp(math.ldexp(abs(widen(x[i])), half), -exponent - half)
            cubes += share * share * share
        total += cubes
    norm: float = l2.times_power(math.pow(total, 1.0 / 3.0), exponent)
    return norm


class _L3(Norm):
    """The third root of the sum of cubes."""

    name = "l3"
    rows_up = staticmethod(rows.up(__name__, _chunk_norm, _chunk_norm))
    rows_down = staticmethod(rows.down(__name__, l2.project))
    margin = L2.margin

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
