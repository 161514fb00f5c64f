"""The magnitude of a given rank among elements that lie in parts, and the exact sum of what lies above it.

The bits of magnitudes order like the magnitudes. So counting the elements by their leading digits, part by part, tells
the leading digits of the one sought; those that share them are counted by the next digits, and so on. No sort.
"""

from collections.abc import Generator
from typing import Any

import numpy as np

from normtree_kernels.compiled.elements import magnitude, widen
from normtree_kernels.compiled.jit import kernel
from normtree_kernels.dtypes import Array, Int64Array, storage

DIGIT_BITS, FEW_BITS = 16, 8
FEW = 1 << 18  # elements that are sooner read twice as often than twice as many digits are counted
EXPONENTS = 2048  # of float64
_FRACTION_BITS, _HALF_BITS = 52, 26
_LEAST_EXPONENT = 1074  # float64's smallest positive value is 2**-1074
_LOW = (1 << _HALF_BITS) - 1

Question = tuple[int, int, int]


def search(rank: int, size: int, dtype: np.dtype[Any]) -> Generator[Question, Int64Array, float]:
    """Search the magnitude of a rank: yield arguments for `digits`, and be sent what it counted over all parts.

    Args:
        rank: how many elements lie before it in ascending order, >= 0.
        size: how many elements there are.
        dtype: of the elements.

    Returns:
        The magnitude, in float64.

    Cost:
        One reading of half precision, two of float32, four of float64; of few elements twice as many.
    """
    high, prefix, bits = 8 * dtype.itemsize - 1, 0, FEW_BITS if size <= FEW else DIGIT_BITS
    while high:
        low = max(0, high - bits)
        upto = np.cumsum((yield high, low, prefix))
        digit = int(np.searchsorted(upto, rank, side="right"))
        rank -= int(upto[digit - 1]) if digit else 0
        prefix = prefix << (high - low) | digit
        high = low
    found = np.array(prefix, np.dtype(f"u{dtype.itemsize}"))
    return float(found.view(dtype).astype(np.float64))


def digits(part: Array, high: int, low: int, prefix: int) -> Int64Array:
    """Count elements by bits ``low`` to ``high`` of their magnitudes, of those whose bits from ``high`` on are given.

    Args:
        part: native floats, contiguous. Not changed.
        high: bit after the digit's last.
        low: bit at which the digit begins.
        prefix: the magnitude's bits from ``high`` on.
    """
    counts = np.zeros(1 << (high - low), np.int64)
    _digits(storage(part).reshape(-1), high, low, prefix, counts)
    return counts


def above(part: Array, tau: float) -> tuple[Int64Array, int]:
    """Sum |y| - tau over the elements above tau, exactly, and count them.

    Args:
        part: native floats, contiguous, finite. Not changed.
        tau: >= 0.

    Returns:
        The sum as `total` reads it, to be added over all parts; and the number.
    """
    sums = np.zeros((2, EXPONENTS), np.int64)
    count = _above(storage(part).reshape(-1), tau, sums)
    return sums, int(count)


def total(sums: Int64Array) -> float:
    """Round an exact sum to the nearest float64, as `math.fsum` does."""
    units = 0
    for exponent in np.flatnonzero(sums.any(axis=0)).tolist():
        units += ((int(sums[1, exponent]) << _HALF_BITS) + int(sums[0, exponent])) << max(exponent - 1, 0)
    return units / (1 << _LEAST_EXPONENT)


@kernel
def _digits(x: Array, high: int, low: int, prefix: int, counts: Int64Array) -> None:
    mask = counts.size - 1
    for i in range(x.size):
        bits = np.int64(magnitude(x[i]))
        if bits >> high == prefix:
            counts[(bits >> low) & mask] += 1


@kernel
def _above(x: Array, tau: float, sums: Int64Array) -> int:
    """Add the fractions of the differences, in halves, each to the sum of its exponent."""
    count = 0
    one = np.empty(1)
    bits = one.view(np.int64)
    for i in range(x.size):
        size = abs(widen(x[i]))
        if size > tau:
            one[0] = size - tau
            exponent = bits[0] >> _FRACTION_BITS
            fraction = bits[0] & ((1 << _FRACTION_BITS) - 1)
            if exponent > 0:
                fraction |= 1 << _FRACTION_BITS
            sums[0, exponent] += fraction & _LOW
            sums[1, exponent] += fraction >> _HALF_BITS
            count += 1
    return count
