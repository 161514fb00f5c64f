"""The l-infinity ball: largest magnitude, clipping.

Projection of v on {x : max |x| <= rho}: x = sign(v) min(|v|, rho).
"""

import math

from normtree_kernels.dtypes import Array, Float64Array, from_magnitude, magnitude, narrow
from normtree_kernels.jit import device


@device
def chunk_norm(x: Array, lanes: Float64Array) -> float:
    """Largest magnitude of contiguous elements, NaN where there is one.

    It compares bits: as integers they order like the values, and their maximum vectorises and keeps a NaN.
    """
    largest = magnitude(x[0])
    for i in range(x.size):
        largest = max(largest, magnitude(x[i]))
    return from_magnitude(largest, x[0])


@device
def add_row(row: Array, largest: Array) -> None:
    """Raise the columns' largest magnitudes, as bits, by a row of elements."""
    for j in range(largest.size):
        largest[j] = max(largest[j], magnitude(row[j]))


@device
def clip(x: Array, rho: float, out: Array) -> None:
    """Clip a fibre at rho > 0, rounded towards zero to the fibre's type."""
    bound = narrow(rho, x[0])
    for i in range(x.size):
        out[i] = x[i] if abs(x[i]) <= bound else math.copysign(bound, x[i])


@device
def clip_row(row: Array, bounds: Array, out: Array) -> None:
    """Clip each element of a row at its column's bound; +0.0 where that is 0."""
    for j in range(row.size):
        bound = bounds[j]
        clipped = row[j] if abs(row[j]) <= bound else math.copysign(bound, row[j])
        out[j] = clipped if bound > 0.0 else bound
