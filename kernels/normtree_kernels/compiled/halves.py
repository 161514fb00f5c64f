"""Turning float16 to float32 and back in machine code: the processor's own instructions, or integers without them.

LLVM would call a library that Numba does not link where a processor has no such instruction. All of it works on one
number or on a vector of them.
"""

from typing import Any

from llvmlite import ir

_SHIFT = 13  # bits that a float32's fraction is longer by
_SIZE, _LARGEST, _EXPONENT = 0x7FFF, 0x7BFF, 0x7C00  # of a float16's bits
_SINGLE_SIZE, _SINGLE_EXPONENT = 0x7FFFFFFF, 0x7F800000
_UP, _DOWN = 2.0**112, 2.0**-112  # between the exponents' biases, 127 and 15


def has(context: Any, feature: str) -> bool:
    """Tell whether the processor that code is generated for has a feature: the cache of machine code is keyed by it."""
    return f"+{feature}," in f"{context.codegen().magic_tuple()[2]},"


def extended(context: Any, builder: Any, bits: Any) -> Any:
    """The float32 values of float16s, given as bits."""
    if _native(context):
        return builder.fpext(builder.bitcast(bits, _like(bits, ir.HalfType())), _like(bits, ir.FloatType()))
    words = _like(bits, ir.IntType(32))
    wide = builder.zext(bits, words)
    size = builder.shl(builder.and_(wide, _all(words, _SIZE)), _all(words, _SHIFT))
    singles = _like(bits, ir.FloatType())
    scaled = builder.bitcast(builder.fmul(builder.bitcast(size, singles), _all(singles, _UP)), words)
    finite = builder.icmp_unsigned("!=", builder.and_(wide, _all(words, _EXPONENT)), _all(words, _EXPONENT))
    value = builder.select(finite, scaled, builder.or_(size, _all(words, _SINGLE_EXPONENT)))
    sign = builder.shl(builder.and_(wide, _all(words, _SIZE + 1)), _all(words, 16))
    return builder.bitcast(builder.or_(value, sign), singles)


def shortened(context: Any, builder: Any, singles: Any) -> Any:
    """The bits of float16s next to finite float32 values: of one of the two around each, it is not said which."""
    shorts, words = _like(singles, ir.IntType(16)), _like(singles, ir.IntType(32))
    if _native(context):
        return builder.bitcast(builder.fptrunc(singles, _like(singles, ir.HalfType())), shorts)
    wide = builder.bitcast(singles, words)
    size = builder.bitcast(builder.and_(wide, _all(words, _SINGLE_SIZE)), singles.type)
    scaled = builder.bitcast(builder.fmul(size, _all(singles.type, _DOWN)), words)
    bits = builder.lshr(scaled, _all(words, _SHIFT))
    largest = _all(words, _LARGEST)
    bits = builder.select(builder.icmp_unsigned("<", bits, largest), bits, largest)
    sign = builder.and_(builder.lshr(wide, _all(words, 16)), _all(words, _SIZE + 1))
    return builder.trunc(builder.or_(bits, sign), shorts)


def _native(context: Any) -> bool:
    return has(context, "f16c") or context.codegen().magic_tuple()[0].startswith(("aarch64", "arm64"))


def _like(value: Any, element: Any) -> Any:
    """Return the type of as many of ``element`` as ``value`` has."""
    return ir.VectorType(element, value.type.count) if isinstance(value.type, ir.VectorType) else element


def _all(kind: Any, value: float) -> Any:
    return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)
