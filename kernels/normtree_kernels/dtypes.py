"""Storage types: what a tensor may be made of, and how its elements are read and written.

Kernels compute in float64. An element is *widened* when it is read and *narrowed* towards zero when it is written,
so that narrowing never moves a result out of its ball.
"""

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload
from numpy.typing import NDArray

Array = NDArray[Any]
Float64Array = NDArray[np.float64]

ACCEPTED = ("float32", "float64")


def check_tensor(value: object, name: str) -> Array:
    """Return ``value`` if it is an array of an accepted type, in any byte order and with any strides.

    Raises:
        TypeError: no NumPy array, or an element type that cannot be projected; the message says which are.
    """
    if not isinstance(value, np.ndarray) or isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name}: wanted a numpy.ndarray, got {type(value).__name__}")
    check_dtype(value.dtype, name)
    return value


def check_dtype(dtype: np.dtype[Any], name: str) -> None:
    """Refuse an element type that cannot be projected.

    Raises:
        TypeError: it is none of those that can; the message says which are.
    """
    if dtype.name not in ACCEPTED:
        raise TypeError(f"{name}: wanted dtype {' or '.join(ACCEPTED)}, got {dtype}")


def widen(element: float) -> float:
    """Read a stored element as float64."""
    raise TypeError("widen is for kernels")


def narrow(value: float, like: float) -> float:
    """Round a float64 towards zero to the type of the stored element ``like``."""
    raise TypeError("narrow is for kernels")


def magnitude(element: float) -> int:
    """Return the bits of the absolute value: integers that order like the values, NaN above infinity."""
    raise TypeError("magnitude is for kernels")


def from_magnitude(bits: int, like: float) -> float:
    """Return as float64 the absolute value whose bits, in the type of ``like``, are ``bits``."""
    raise TypeError("from_magnitude is for kernels")


@overload(widen, strict=False)
def _widen(element: Any) -> Any:
    return lambda element: np.float64(element)


@overload(narrow, strict=False)
def _narrow(value: Any, like: Any) -> Any:
    if like == types.float64:
        return lambda value, like: value

    def narrow_float32(value: Any, like: Any) -> Any:
        nearest = np.float32(value)
        below = np.int32(nearest.view(np.int32) - np.int32(1))  # one step towards zero, whatever the sign
        return below.view(np.float32) if abs(np.float64(nearest)) > abs(value) else nearest

    return narrow_float32


@overload(magnitude, strict=False)
def _magnitude(element: Any) -> Any:
    if element == types.float64:
        return lambda element: np.float64(element).view(np.int64) & np.int64(0x7FFFFFFFFFFFFFFF)
    return lambda element: np.float32(element).view(np.int32) & np.int32(0x7FFFFFFF)


@overload(from_magnitude, strict=False)
def _from_magnitude(bits: Any, like: Any) -> Any:
    if like == types.float64:
        return lambda bits, like: np.int64(bits).view(np.float64)
    return lambda bits, like: np.float64(np.int32(bits).view(np.float32))


def zero_magnitudes(like: Array, count: int) -> Array:
    """Allocate ``count`` magnitudes, as bits, of zero, for elements of the type of ``like``."""
    raise TypeError("zero_magnitudes is for kernels")


def greatest(like: float) -> float:
    """Return the largest finite value of the type of the stored element ``like``."""
    raise TypeError("greatest is for kernels")


@overload(zero_magnitudes, strict=False)
def _zero_magnitudes(like: Any, count: Any) -> Any:
    bits = np.int64 if like.dtype == types.float64 else np.int32
    return lambda like, count: np.zeros(count, bits)


@overload(greatest, strict=False)
def _greatest(like: Any) -> Any:
    value = np.finfo(np.float64).max if like == types.float64 else np.finfo(np.float32).max
    return lambda like: value
