"""What callers pass: checked where it comes in, and told by its name when it is wrong."""

import math
from numbers import Integral, Real

import numpy as np

from normtree_kernels.dtypes import Array
from normtree_kernels.norms import MixedNorm


def check_radius(radius: object) -> float:
    """Return the radius as a float if it is finite and >= 0.

    Raises:
        TypeError: not a real number.
        ValueError: negative, NaN or infinite.
    """
    value = _real(radius, "radius")
    if not (math.isfinite(value) and value >= 0.0):
        raise ValueError(f"radius: must be finite and >= 0, got {value}")
    return abs(value)  # -0.0 is a zero like the other


def check_threads(threads: object) -> int:
    """Return the number of threads if it is an integer >= 1.

    Raises:
        TypeError: not an integer.
        ValueError: less than one.
    """
    count = _integer(threads, "threads")
    if count < 1:
        raise ValueError(f"threads: must be >= 1, got {count}")
    return count


def check_out(out: object, y: Array) -> Array:
    """Return ``out`` if the projection of y can be written to it: y itself, or memory apart from it.

    Raises:
        TypeError: no array, or of another dtype.
        ValueError: another shape, read-only, or memory shared with y, but not element by element.
    """
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise TypeError(f"out: wanted a numpy.ndarray, got {type(out).__name__}")
    if out.dtype != y.dtype:
        raise TypeError(f"out: wanted dtype {y.dtype}, got {out.dtype}")
    if out.shape != y.shape:
        raise ValueError(f"out: wanted shape {y.shape}, got {out.shape}")
    if not out.flags.writeable:
        raise ValueError("out: wanted a writable array, got a read-only one")
    same = out.__array_interface__["data"] == y.__array_interface__["data"] and out.strides == y.strides
    if not same and np.may_share_memory(out, y) and np.shares_memory(out, y):
        raise ValueError("out: must be y itself or share no memory with y")
    return out


def check_share(sparsity: object) -> float:
    """Return the share of groups that is to vanish as a float if it is one.

    Raises:
        TypeError: not a real number.
        ValueError: not from 0 to 1.
    """
    share = _real(sparsity, "sparsity")
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"sparsity: wanted a share from 0 to 1, got {share}")
    return abs(share)


def check_groups(groups: object) -> int:
    """Return the number of groups that is to survive if it is an integer >= 0.

    Raises:
        TypeError: not an integer.
        ValueError: negative.
    """
    count = _integer(groups, "groups")
    if count < 0:
        raise ValueError(f"groups: must be >= 0, got {count}")
    return count


def describe_bad(y: Array, name: str, norm: MixedNorm) -> str:
    """Say which element, the first in C order, is NaN or infinite; or that the norm overflows."""
    slabs = y if y.ndim else y.reshape(1)
    for i, slab in enumerate(slabs):
        bad = np.argwhere(~np.isfinite(slab))
        if len(bad):
            index = (i, *(int(k) for k in bad[0])) if y.ndim else ()
            return f"{name}: element {list(index)} is {y[index]}; every element must be finite"
    return f"{name}: its norm ({norm}) overflows float64; scale it down"


def _real(value: object, name: str) -> float:
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real | np.floating | np.integer):
        raise TypeError(f"{name}: wanted a real number, got {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name}: must be finite and >= 0, got one that no float64 can hold") from None


def _integer(value: object, name: str) -> int:
    if isinstance(value, bool | np.bool_) or not isinstance(value, Integral | np.integer):
        raise TypeError(f"{name}: wanted an integer, got {type(value).__name__}")
    return int(value)
