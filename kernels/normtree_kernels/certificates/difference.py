"""What a projection took away: the length of Y - X, and how many elements of X are left, in one pass over both."""

import math

import numpy as np

from normtree_kernels.compiled.elements import widen
from normtree_kernels.compiled.jit import device, kernel
from normtree_kernels.compiled.lanes import CHUNK, LANES, fold
from normtree_kernels.dtypes import Array, Float64Array, storage
from normtree_kernels.norms.l2 import L2
from normtree_kernels.sweeps import sweep

# Sums of squares outside these bounds may have lost digits to underflow or overflow, and are taken again in scale.
_SMALL, _LARGE = 1e-200, 1e300


def difference(y: Array, x: Array) -> tuple[float, int]:
    """Measure Y - X.

    Args:
        y: native floats, contiguous. Not changed.
        x: of the same shape and dtype, contiguous. Not changed.

    Returns:
        The Euclidean length of Y - X, summed in float64 in a fixed order, and the number of elements of X that are
        not zero.

    Cost:
        Reads both once.
    """
    square, changed, nonzero = _squares(storage(y).reshape(-1), storage(x).reshape(-1))
    if not changed or _SMALL <= square <= _LARGE:
        return math.sqrt(square), int(nonzero)
    gone = y.reshape(-1).astype(np.float64) - x.reshape(-1).astype(np.float64)
    return float(sweep.up(L2, gone, 0)), int(nonzero)


@device
def _chunk(y: Array, x: Array, lanes: Float64Array) -> tuple[float, int, int]:
    """Sum the squares of one chunk's differences; count those, and the elements that are left."""
    whole = y.size - y.size % LANES
    changed, nonzero = 0, 0
    for lane in range(LANES):
        lanes[lane] = 0.0
    for i in range(0, whole, LANES):
        for lane in range(LANES):
            left = widen(x[i + lane])
            gone = widen(y[i + lane]) - left
            lanes[lane] += gone * gone
            changed += gone != 0.0
            nonzero += left != 0.0
    for i in range(whole, y.size):
        left = widen(x[i])
        gone = widen(y[i]) - left
        lanes[i - whole] += gone * gone
        changed += gone != 0.0
        nonzero += left != 0.0
    return fold(lanes), changed, nonzero


@kernel
def _squares(y: Array, x: Array) -> tuple[float, int, int]:
    """Sum the squares of the differences; count those, and the elements that are left."""
    lanes = np.empty(LANES)
    total, changed, nonzero = 0.0, 0, 0
    for start in range(0, y.size, CHUNK):
        stop = min(start + CHUNK, y.size)
        square, gone, left = _chunk(y[start:stop], x[start:stop], lanes)
        total += square
        changed += gone
        nonzero += left
    return total, changed, nonzero
