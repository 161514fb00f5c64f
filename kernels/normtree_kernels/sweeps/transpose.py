"""Turning columns to rows: squares of a matrix transposed in registers."""

from collections.abc import Callable
from typing import Any, cast

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from normtree_kernels.compiled.elements import Codegen
from normtree_kernels.compiled.jit import device
from normtree_kernels.dtypes import Array

SIDE = 16

_intrinsic = cast(Callable[[Callable[..., Any]], Callable[..., Any]], intrinsic)


@_intrinsic
def _square(typing: Any, x: Any, first: Any, step: Any, out: Any, at: Any, room: Any) -> tuple[Any, Codegen]:
    """Transpose the 16 rows of 16 elements that lie ``step`` apart in x to 16 rows ``room`` apart in out."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, start, stride, target, place, pitch = arguments
        row = ir.VectorType(ir.IntType(8 * context.get_abi_sizeof(context.get_data_type(x.dtype))), SIDE)

        def pointer(kind: Any, array: Any, index: Any) -> Any:
            data = context.make_array(kind)(context, builder, array).data
            return builder.bitcast(builder.gep(data, [index]), row.as_pointer())

        rows = []
        for _ in range(SIDE):
            rows.append(builder.load(pointer(x, source, start), align=1))
            start = builder.add(start, stride)
        for column in _turned(builder, rows):
            builder.store(column, pointer(out, target, place), align=1)
            place = builder.add(place, pitch)
        return context.get_dummy_value()

    return types.none(x, first, step, out, at, room), codegen


def _turned(builder: Any, rows: list[Any]) -> list[Any]:
    """Interleave the upper half of the rows with the lower one, four times: each turns an index bit of rows to columns.

    An element's place is the eight bits of its row and column; a turn rotates them by one, and four swap the two.
    """
    half = SIDE // 2
    words = ir.VectorType(ir.IntType(32), SIDE)
    pairs = [(i, SIDE + i) for i in range(SIDE)]
    low, high = (
        ir.Constant(words, [index for pair in part for index in pair]) for part in (pairs[:half], pairs[half:])
    )
    for _ in range(SIDE.bit_length() - 1):
        turned = [builder.shuffle_vector(rows[i], rows[half + i], part) for i in range(half) for part in (low, high)]
        rows = turned
    return rows


@device
def pack_columns(x: Array, first: int, length: int, step: int, width: int, packed: Array, room: int) -> None:
    """Copy ``width`` neighbouring columns, whose elements lie ``step`` apart, to rows that lie ``room`` apart."""
    tall, wide = length - length % SIDE, width - width % SIDE
    for i in range(0, tall, SIDE):
        for k in range(0, wide, SIDE):
            _square(x, first + i * step + k, step, packed, k * room + i, room)
        for r in range(i, i + SIDE):
            for k in range(wide, width):
                packed[k * room + r] = x[first + r * step + k]
    for r in range(tall, length):
        for k in range(width):
            packed[k * room + r] = x[first + r * step + k]
