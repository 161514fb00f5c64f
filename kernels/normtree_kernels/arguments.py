"""What callers pass: checked where it comes in, and told by its name when it is wrong."""

import math
import operator
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import numpy as np

from normtree_kernels.dtypes import Array
from normtree_kernels.norms.mixed_norm import MixedNorm
from normtree_kernels.refusals import TypeRefused, ValueRefused

N = TypeVar("N")

_FINITE = "finite and >= 0"
_NO_NUMBERS = ("bool", "complex", "datetime", "timedelta")  # though float() takes some of them


def check_radius(radius: object) -> float:
    """Return the radius as a float if it is finite and >= 0.

    Raises:
        TypeError: not a real number.
        ValueError: negative, NaN or infinite.
    """
    value = _real(radius, "radius")
    if not (math.isfinite(value) and value >= 0.0):
        raise ValueRefused("radius", _FINITE, value, f"must be {_FINITE}, got {value}")
    return abs(value)  # -0.0 is a zero like the other


def check_threads(threads: object) -> int:
    """Return the number of threads if it is an integer >= 1.

    Raises:
        TypeError: not an integer.
        ValueError: less than one.
    """
    count = _integer(threads, "threads")
    if count < 1:
        raise ValueRefused("threads", ">= 1", count, f"must be >= 1, got {count}")
    return count


def check_out(out: object, y: Array) -> Array:
    """Return ``out`` if the projection of y can be written to it: y itself, or memory apart from it.

    Raises:
        TypeError: no array, or of another dtype.
        ValueError: another shape, read-only, or memory shared with y, but not element by element.
    """
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise TypeRefused("out", "a numpy.ndarray", type(out).__name__)
    if out.dtype != y.dtype:
        raise TypeRefused("out", f"dtype {y.dtype}", str(out.dtype))
    if out.shape != y.shape:
        raise ValueRefused("out", f"shape {y.shape}", str(out.shape))
    if not out.flags.writeable:
        raise ValueRefused("out", "a writable array", "a read-only one")
    same = out.__array_interface__["data"] == y.__array_interface__["data"] and out.strides == y.strides
    if not same and np.may_share_memory(out, y) and np.shares_memory(out, y):
        wanted, got = "y itself or share no memory with y", "one that overlaps it"
        raise ValueRefused("out", wanted, got, f"must be {wanted}, got {got}")
    if _overlaps_itself(out):
        raise ValueRefused("out", "each element in memory of its own", f"strides {out.strides} over {out.shape}")
    return out


def check_share(sparsity: object) -> float:
    """Return the share of groups that is to vanish as a float if it is one.

    Raises:
        TypeError: not a real number.
        ValueError: not from 0 to 1.
    """
    share = _real(sparsity, "sparsity")
    if not 0.0 <= share <= 1.0:
        raise ValueRefused("sparsity", "a share from 0 to 1", share)
    return abs(share)


def check_groups(groups: object) -> int:
    """Return the number of groups that is to survive if it is an integer >= 0.

    Raises:
        TypeError: not an integer.
        ValueError: negative.
    """
    count = _integer(groups, "groups")
    if count < 0:
        raise ValueRefused("groups", ">= 0", count, f"must be >= 0, got {count}")
    return count


def not_finite(y: Array, name: str, norm: MixedNorm) -> ValueRefused:
    """Return the refusal of a tensor whose norm is not finite.

    Args:
        y: of any shape and accepted dtype.
        name: what its caller calls it.
        norm: bound to its axes.

    Returns:
        It tells which element, the first in C order, is NaN or infinite; or that the norm overflows.
    """
    slabs = y if y.ndim else y.reshape(1)
    for i, slab in enumerate(slabs):
        bad = np.argwhere(~np.isfinite(slab))
        if len(bad):
            index = (i, *(int(k) for k in bad[0])) if y.ndim else ()
            return bad_element(name, index, y[index])
    return ValueRefused(name, "a finite norm", math.inf, f"its norm ({norm}) overflows float64; scale it down")


def bad_element(name: str, index: Sequence[int], element: Any) -> ValueRefused:
    """Return the refusal of a tensor for one element of it that is NaN or infinite."""
    why = f"element {list(index)} is {element}; every element must be finite"
    return ValueRefused(name, "finite elements", float(element), why)


def _overlaps_itself(array: Array) -> bool:
    """Tell whether elements may share memory: a stride does not step over all that the smaller ones reach."""
    reach = 0
    for stride, length in sorted((abs(stride), n) for stride, n in zip(array.strides, array.shape, strict=True)):
        if length > 1 and stride < reach + array.itemsize:
            return array.size > 0
        reach += stride * (length - 1)
    return False


def _real(value: object, name: str) -> float:
    try:
        return _number(value, name, "a real number", float)
    except OverflowError:
        got = "one that no float64 can hold"
        raise ValueRefused(name, _FINITE, got, f"must be {_FINITE}, got {got}") from None


def _integer(value: object, name: str) -> int:
    return _number(value, name, "an integer", operator.index)


def _number(value: Any, name: str, wanted: str, convert: Callable[[Any], N]) -> N:
    """Convert what is a number of Python's, NumPy's or another library's, or an array of one without axes.

    Raises:
        TypeError: a truth value, text, a complex number, an array of any axes, or no number at all.
    """
    given = value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value
    kind = str(getattr(given, "dtype", type(given).__name__)).rpartition(".")[2]  # torch's are torch.bool, …
    is_one = getattr(given, "shape", ()) == () and (hasattr(given, "__float__") or hasattr(given, "__index__"))
    if is_one and not isinstance(given, str | bytes) and not kind.startswith(_NO_NUMBERS):
        with suppress(TypeError):
            return convert(given)
    raise TypeRefused(name, wanted, type(value).__name__)
