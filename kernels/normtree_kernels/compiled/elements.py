"""Elements as kernels see them: read as float64, written rounded towards zero, compared by their bits.

Kernels compute in float64. An element is *widened* when it is read and *narrowed* towards zero when it is written, so
that narrowing never moves a result out of its ball. Half precision arrives as integers (see dtypes.py): uint16 stands
for float16, int16 for bfloat16. The bits of a magnitude, as an integer, order like the magnitude itself.
"""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from normtree_kernels.compiled.halves import extended, shortened
from normtree_kernels.dtypes import Array

_BITS: dict[Any, Any] = {
    types.float64: types.int64,
    types.float32: types.int32,
    types.uint16: types.int16,
    types.int16: types.int16,
}
_NUMPY_BITS: dict[Any, Any] = {types.int64: np.int64, types.int32: np.int32, types.int16: np.int16}

Codegen = Callable[[Any, Any, Any, Any], Any]

# To Python's type checkers an intrinsic takes its typing context too; to kernels it does not.
_intrinsic = cast(Callable[[Callable[..., Any]], Callable[..., Any]], intrinsic)


@_intrinsic
def _float16_value(typing: Any, bits: Any) -> tuple[Any, Codegen]:
    """The float32 value of a float16's bits: one instruction where the processor has it."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return extended(context, builder, arguments[0])

    return types.float32(types.uint16), codegen


@_intrinsic
def _float16_bits(typing: Any, value: Any) -> tuple[Any, Codegen]:
    """The bits of a float16 next to a float32 value."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return shortened(context, builder, arguments[0])

    return types.uint16(types.float32), codegen


@_intrinsic
def magnitude(typing: Any, element: Any) -> tuple[Any, Codegen]:
    """The bits of the absolute value: integers that order like the values, infinity and then NaN above them all."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.IntType(signature.return_type.bitwidth)
        return builder.and_(builder.bitcast(arguments[0], kind), _mask(kind))

    return _BITS[element](element), codegen


@_intrinsic
def larger(typing: Any, a: Any, b: Any) -> tuple[Any, Codegen]:
    """The larger of two magnitudes, in their own width."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.select(builder.icmp_signed(">", *arguments), *arguments)

    return a(a, b), codegen


@_intrinsic
def clipped(typing: Any, element: Any, bound: Any) -> tuple[Any, Codegen]:
    """The element with its magnitude clipped at a bound, given as bits; +0.0 where the bound is zero."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.IntType(signature.args[1].bitwidth)
        bits = builder.bitcast(arguments[0], kind)
        size = builder.and_(bits, _mask(kind))
        sign = builder.and_(bits, builder.not_(_mask(kind)))
        least = builder.select(builder.icmp_signed("<", size, arguments[1]), size, arguments[1])
        zero = ir.Constant(kind, 0)
        result = builder.select(builder.icmp_signed("==", arguments[1], zero), zero, builder.or_(least, sign))
        return builder.bitcast(result, context.get_value_type(signature.return_type))

    return element(element, bound), codegen


@_intrinsic
def as_element(typing: Any, bits: Any, like: Any) -> tuple[Any, Codegen]:
    """The non-negative element whose bits these are, in the type of ``like``."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(signature.return_type))

    return like(bits, like), codegen


@_intrinsic
def no_bound(typing: Any, like: Any) -> tuple[Any, Codegen]:
    """The bits of a bound that clips nothing, for elements of the type of ``like``."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _mask(ir.IntType(signature.return_type.bitwidth))

    return _BITS[like](like), codegen


def _mask(kind: Any) -> Any:
    return ir.Constant(kind, 2 ** (kind.width - 1) - 1)


def widen(element: float) -> float:
    """Read a stored element as float64."""
    raise TypeError("widen is for kernels")


def narrow(value: float, like: float) -> float:
    """Round a float64 towards zero to the type of the stored element ``like``."""
    raise TypeError("narrow is for kernels")


def zero_magnitudes(like: Array, count: int) -> Array:
    """Allocate ``count`` magnitudes, as bits, of zero, for elements of the type of ``like``."""
    raise TypeError("zero_magnitudes is for kernels")


@overload(widen, strict=False)
def _widen(element: Any) -> Any:
    if element == types.uint16:
        return lambda element: np.float64(_float16_value(element))
    if element == types.int16:
        return lambda element: np.float64(np.int32(np.int32(element) << 16).view(np.float32))
    return lambda element: np.float64(element)


@overload(narrow, strict=False)
def _narrow(value: Any, like: Any) -> Any:
    if like == types.float64:
        return lambda value, like: value
    if like == types.float32:
        return lambda value, like: _narrow_to_float32(value)
    if like == types.int16:
        return lambda value, like: np.int16(np.float32(_narrow_to_float32(value)).view(np.int32) >> 16)
    return lambda value, like: _narrow_to_float16(value)


@overload(zero_magnitudes, strict=False)
def _zero_magnitudes(like: Any, count: Any) -> Any:
    bits = _NUMPY_BITS[_BITS[like.dtype]]
    return lambda like, count: np.zeros(count, bits)


def _narrow_to_float32(value: float) -> np.float32:
    raise TypeError("for kernels")


def _narrow_to_float16(value: float) -> np.uint16:
    raise TypeError("for kernels")


@overload(_narrow_to_float32, strict=False)
def _to_float32(value: Any) -> Any:
    def narrow_to_float32(value: Any) -> Any:
        nearest = np.float32(value)
        below = np.int32(nearest.view(np.int32) - np.int32(1))  # one step towards zero, whatever the sign
        return below.view(np.float32) if abs(np.float64(nearest)) > abs(value) else nearest

    return narrow_to_float32


@overload(_narrow_to_float16, strict=False)
def _to_float16(value: Any) -> Any:
    def narrow_to_float16(value: Any) -> Any:
        near = _float16_bits(np.float32(value))
        below = np.uint16(near - np.uint16(1))
        return below if abs(np.float64(_float16_value(near))) > abs(value) else near

    return narrow_to_float16
