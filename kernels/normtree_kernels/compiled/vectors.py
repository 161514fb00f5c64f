"""The 64 lanes of a sum as one value, kept in registers: how kernels add, and load and store their elements, by lanes.

To a compiler an array of lanes is memory, written and read again at every step of a sum. A `Lanes` value is a vector
of 64 float64 that LLVM splits to whatever registers a processor has. Each operation rounds lane by lane, as IEEE says,
so that its bits depend on no vector width.
"""

import operator
from collections.abc import Callable
from typing import Any, cast

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, overload, register_model

from normtree_kernels.compiled.elements import Codegen
from normtree_kernels.compiled.halves import extended, has, shortened
from normtree_kernels.compiled.jit import device
from normtree_kernels.compiled.lanes import GROUPS, LANES
from normtree_kernels.compiled.lines import LINE_BYTES
from normtree_kernels.dtypes import Array

Lanes = Any  # to Python's type checkers; kernels see one of this module's types

_intrinsic = cast(Callable[[Callable[..., Any]], Callable[..., Any]], intrinsic)

_DOUBLE = ir.DoubleType()
_VECTOR = ir.VectorType(_DOUBLE, LANES)
_INDICES = ir.VectorType(ir.IntType(32), LANES)
_TOWARDS_ZERO = 11  # as x86 encodes it, exceptions suppressed
_STORED: dict[Any, Any] = {
    types.float64: _DOUBLE,
    types.float32: ir.FloatType(),
    types.uint16: ir.HalfType(),
    types.int16: ir.IntType(16),
}


class _LanesType(types.Type):
    """Numba's type of a `Lanes` value."""


_LANES = _LanesType("Lanes")


@register_model(_LanesType)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, _VECTOR)  # type: ignore[no-untyped-call]


@_intrinsic
def zeros(typing: Any) -> tuple[Any, Codegen]:
    """64 lanes of 0.0."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return ir.Constant(_VECTOR, [0.0] * LANES)

    return _LANES(), codegen


@_intrinsic
def load(typing: Any, x: Any, start: Any) -> tuple[Any, Codegen]:
    """Read 64 elements from ``x[start:]``, widened."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        # By groups: a processor widens straight from memory what would else have to be cut up in registers.
        pointer = _pointer(context, builder, signature.args, arguments)
        part = ir.VectorType(pointer.type.pointee.element, GROUPS)
        first = builder.bitcast(pointer, part.as_pointer())
        groups = []
        for index in range(LANES // GROUPS):
            at = builder.gep(first, [ir.Constant(ir.IntType(32), index)])
            groups.append(_widened(context, builder, builder.load(at, align=1)))
        return _joined(builder, groups)

    return _LANES(x, start), codegen


@_intrinsic
def _load_part(typing: Any, x: Any, start: Any, count: Any) -> tuple[Any, Codegen]:
    """Read ``count`` elements, 1 to 63, from ``x[start:]``, widened; the other lanes are 0.0."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _pointer(context, builder, signature.args, arguments)
        vector = pointer.type.pointee
        name = f"llvm.masked.load.v{LANES}{_suffix(vector.element)}.p0"
        mask = _first(builder, arguments[2])
        kind = ir.FunctionType(vector, [pointer.type, ir.IntType(32), mask.type, vector])
        masked = builder.module.declare_intrinsic(name, (), kind)
        rest = ir.Constant(vector, None)
        return _widened(context, builder, builder.call(masked, [pointer, ir.Constant(ir.IntType(32), 1), mask, rest]))

    return _LANES(x, start, count), codegen


@device
def take(x: Array, start: int) -> Lanes:
    """Read 64 elements from ``x[start:]``, widened; lanes beyond the end of x are 0.0."""
    left = x.size - start
    return load(x, start) if left >= LANES else _load_part(x, start, left)


@_intrinsic
def sizes(typing: Any, lanes: Any) -> tuple[Any, Codegen]:
    """The absolute values."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(_VECTOR, [_VECTOR])
        return builder.call(builder.module.declare_intrinsic(f"llvm.fabs.v{LANES}f64", (), kind), arguments)

    return _LANES(lanes), codegen


@_intrinsic
def spread(typing: Any, value: Any) -> tuple[Any, Codegen]:
    """64 lanes of one value."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        one = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), arguments[0], ir.Constant(ir.IntType(32), 0))
        return builder.shuffle_vector(one, one, ir.Constant(_INDICES, [0] * LANES))

    return _LANES(types.float64), codegen


@_intrinsic
def where_above(typing: Any, a: Any, b: Any, yes: Any, no: Any) -> tuple[Any, Codegen]:
    """``yes`` in the lanes in which a > b, ``no`` in the others."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", arguments[0], arguments[1]), *arguments[2:])

    return _LANES(a, b, yes, no), codegen


@_intrinsic
def total(typing: Any, lanes: Any) -> tuple[Any, Codegen]:
    """Add the 64 lanes in their fixed order: into eight groups, and those one after the other."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        groups, *rest = _parts(builder, arguments[0])
        for part in rest:
            groups = builder.fadd(groups, part)
        result = ir.Constant(_DOUBLE, 0.0)
        for index in range(GROUPS):
            result = builder.fadd(result, builder.extract_element(groups, ir.Constant(ir.IntType(32), index)))
        return result

    return types.float64(lanes), codegen


@_intrinsic
def signed_like(typing: Any, lanes: Any, signs: Any) -> tuple[Any, Codegen]:
    """The magnitudes of ``lanes`` with the signs of ``signs``."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(_VECTOR, [_VECTOR, _VECTOR])
        return builder.call(builder.module.declare_intrinsic(f"llvm.copysign.v{LANES}f64", (), kind), arguments)

    return _LANES(lanes, signs), codegen


@_intrinsic
def _store(typing: Any, lanes: Any, out: Any, at: Any) -> tuple[Any, Codegen]:
    """Write 64 lanes to ``out[at:]``, narrowed."""
    return types.none(lanes, out, at), _storing(past_caches=False)


@_intrinsic
def _stream(typing: Any, lanes: Any, out: Any, at: Any) -> tuple[Any, Codegen]:
    """Write 64 lanes to ``out[at:]``, which is aligned to a line, narrowed and past the caches."""
    return types.none(lanes, out, at), _storing(past_caches=True)


@device
def store(lanes: Lanes, out: Array, at: int, streaming: bool) -> None:
    """Write 64 lanes to ``out[at:]``, narrowed; where ``streaming``, past the caches, and aligned to a line."""
    if streaming:
        _stream(lanes, out, at)
    else:
        _store(lanes, out, at)


def _storing(*, past_caches: bool) -> Codegen:
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lanes, *place = arguments
        pointer = _pointer(context, builder, signature.args[1:], place)
        narrowed = _joined(builder, [_narrowed(context, builder, part, pointer) for part in _parts(builder, lanes)])
        store = builder.store(narrowed, pointer, align=LINE_BYTES if past_caches else 1)
        if past_caches:
            store.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
        return context.get_dummy_value()

    return codegen


def _binary(name: str) -> Callable[..., Any]:
    @_intrinsic
    def operation(typing: Any, a: Any, b: Any) -> tuple[Any, Codegen]:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return getattr(builder, name)(*arguments)

        return _LANES(a, b), codegen

    return operation


def _overload(operation: Callable[..., Any], name: str) -> None:
    lane_by_lane = _binary(name)

    @overload(operation, strict=False)
    def _operation(a: Any, b: Any) -> Any:
        if a == _LANES and b == _LANES:
            return lambda a, b: lane_by_lane(a, b)
        return None


_overload(operator.add, "fadd")
_overload(operator.sub, "fsub")
_overload(operator.mul, "fmul")


def _pointer(context: Any, builder: Any, kinds: Any, arguments: Any) -> Any:
    """Point to the 64 elements at ``x[start:]``, x and start the first arguments."""
    array = context.make_array(kinds[0])(context, builder, arguments[0])
    vector = ir.VectorType(_STORED[kinds[0].dtype], LANES)
    return builder.bitcast(builder.gep(array.data, [arguments[1]]), vector.as_pointer())


def _widened(context: Any, builder: Any, stored: Any) -> Any:
    count = stored.type.count
    if stored.type.element == _DOUBLE:
        return stored
    if stored.type.element == ir.IntType(16):  # bfloat16: the upper half of a float32
        words = ir.VectorType(ir.IntType(32), count)
        upper = builder.shl(builder.zext(stored, words), ir.Constant(words, [16] * count))
        stored = builder.bitcast(upper, ir.VectorType(ir.FloatType(), count))
    if stored.type.element == ir.HalfType():
        stored = extended(context, builder, builder.bitcast(stored, ir.VectorType(ir.IntType(16), count)))
    return builder.fpext(stored, ir.VectorType(_DOUBLE, count))


def _narrowed(context: Any, builder: Any, part: Any, pointer: Any) -> Any:
    """Round eight lanes towards zero to the stored type, bit for bit as `normtree_kernels.compiled.elements.narrow`."""
    kind = pointer.type.pointee.element
    if kind == _DOUBLE:
        return part
    if kind == ir.HalfType():
        return _to_half(context, builder, part)
    single = _to_single(context, builder, part)
    if kind == ir.FloatType():
        return single
    words, halves = (ir.VectorType(ir.IntType(width), GROUPS) for width in (32, 16))
    upper = builder.lshr(builder.bitcast(single, words), ir.Constant(words, [16] * GROUPS))
    return builder.trunc(upper, halves)


def _to_single(context: Any, builder: Any, part: Any) -> Any:
    singles = ir.VectorType(ir.FloatType(), GROUPS)
    if has(context, "avx512f"):
        word, mask = ir.IntType(32), ir.IntType(8)
        kind = ir.FunctionType(singles, [part.type, singles, mask, word])
        convert = builder.module.declare_intrinsic("llvm.x86.avx512.mask.cvtpd2ps.512", (), kind)
        return builder.call(
            convert, [part, ir.Constant(singles, None), ir.Constant(mask, -1), ir.Constant(word, _TOWARDS_ZERO)]
        )
    nearest = builder.fptrunc(part, singles)
    return builder.bitcast(_step_back(builder, part, nearest, nearest), singles)


def _to_half(context: Any, builder: Any, part: Any) -> Any:
    halves = ir.VectorType(ir.HalfType(), GROUPS)
    if has(context, "avx512f") and has(context, "f16c"):
        single = _to_single(context, builder, part)
        bits = ir.VectorType(ir.IntType(16), GROUPS)
        kind = ir.FunctionType(bits, [single.type, ir.IntType(32)])
        convert = builder.module.declare_intrinsic("llvm.x86.vcvtps2ph.256", (), kind)
        return builder.bitcast(builder.call(convert, [single, ir.Constant(ir.IntType(32), _TOWARDS_ZERO)]), halves)
    near = shortened(context, builder, builder.fptrunc(part, ir.VectorType(ir.FloatType(), GROUPS)))
    return builder.bitcast(_step_back(builder, part, near, extended(context, builder, near)), halves)


def _step_back(builder: Any, part: Any, near: Any, singles: Any) -> Any:
    """Step one bit towards zero where rounding to ``singles``, whose bits are ``near``, led away from it."""
    fabs = builder.module.declare_intrinsic("llvm.fabs.v8f64", (), ir.FunctionType(part.type, [part.type]))
    wide = builder.fpext(singles, part.type)
    away = builder.fcmp_ordered(">", builder.call(fabs, [wide]), builder.call(fabs, [part]))
    bits = near.type if isinstance(near.type.element, ir.IntType) else ir.VectorType(ir.IntType(32), GROUPS)
    return builder.sub(builder.bitcast(near, bits), builder.zext(away, bits))


def _first(builder: Any, count: Any) -> Any:
    """Mask the lanes below ``count``, which is not 0."""
    word = ir.IntType(64)
    ones = builder.lshr(ir.Constant(word, -1), builder.sub(ir.Constant(word, LANES), count))
    return builder.bitcast(ones, ir.VectorType(ir.IntType(1), LANES))


def _parts(builder: Any, lanes: Any) -> list[Any]:
    """Cut lanes into their groups."""
    word = ir.IntType(32)
    cuts = [ir.Constant(ir.VectorType(word, GROUPS), list(range(i, i + GROUPS))) for i in range(0, LANES, GROUPS)]
    return [builder.shuffle_vector(lanes, lanes, cut) for cut in cuts]


def _joined(builder: Any, parts: list[Any]) -> Any:
    """Lay vectors of the same length one after the other, in pairs."""
    while len(parts) > 1:
        count = 2 * parts[0].type.count
        indices = ir.Constant(ir.VectorType(ir.IntType(32), count), list(range(count)))
        parts = [builder.shuffle_vector(a, b, indices) for a, b in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def _suffix(kind: Any) -> str:
    return {_DOUBLE: "f64", ir.FloatType(): "f32", ir.HalfType(): "f16", ir.IntType(16): "i16"}[kind]
