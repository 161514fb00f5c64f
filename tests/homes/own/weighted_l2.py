"""A norm of somebody's own: three quarters of the Euclidean length. Registered when it is imported."""

import math

import numpy as np

from normtree_kernels.compiled.jit import device
from normtree_kernels.dtypes import Array, Float64Array
from normtree_kernels.norms import l2
from normtree_kernels.norms.l2 import L2
from normtree_kernels.norms.mixed_norm import NORMS
from normtree_kernels.sweeps import rows
from normtree_kernels.vector_norm import Norm

WEIGHT = 0.75


@device
def _chunk_norm(x: Array) -> float:
    weighted: float = WEIGHT * l2.chunk_norm(x)
    return weighted


class _WeightedL2(Norm):
    """Its norms of parts join as lengths do, and one element has three quarters of its magnitude."""

    name = "weighted_l2"
    rows_up = staticmethod(rows.up(__name__, _chunk_norm, l2.chunk_norm))
    rows_down = staticmethod(rows.down(__name__, l2.project))
    margin = L2.margin

    @property
    def of_parts(self) -> Norm:
        return L2

    def growth(self, count: int) -> float:
        return WEIGHT * math.sqrt(count)

    def reference_norm(self, values: Float64Array) -> Float64Array:
        return np.asarray(WEIGHT * L2.reference_norm(values))

    def reference_project(self, values: Float64Array, radius: float) -> Float64Array:
        return L2.reference_project(values, radius / WEIGHT)


NORMS["weighted_l2"] = _WeightedL2()
