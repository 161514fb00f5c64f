"""Clipping by whole lines of memory; large results past the caches, for nobody reads them again soon enough.

A plain store first reads the line it overwrites. A store that bypasses the caches does not, and so a clip of a large
tensor moves two thirds of the bytes. The arithmetic is that of `normtree_kernels.compiled.elements.clipped`, on 64
bytes.
"""

from collections.abc import Callable
from typing import Any, cast

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from normtree_kernels.compiled.elements import Codegen, clipped
from normtree_kernels.compiled.jit import device
from normtree_kernels.dtypes import Array

LINE_BYTES = 64

_intrinsic = cast(Callable[[Callable[..., Any]], Callable[..., Any]], intrinsic)


@_intrinsic
def address(typing: Any, array: Any) -> tuple[Any, Codegen]:
    """Address of an array's first element."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ptrtoint(_data(context, builder, signature.args[0], arguments[0]), ir.IntType(64))

    return types.int64(array), codegen


@_intrinsic
def _clip_line(typing: Any, x: Any, start: Any, limits: Any, first: Any, out: Any, at: Any) -> tuple[Any, Codegen]:
    """Clip the 64 bytes at ``x[start:]`` at ``limits[first:]``, to ``out[at:]``."""
    return types.none(x, start, limits, first, out, at), _clipping(past_caches=False)


@_intrinsic
def _stream_line(typing: Any, x: Any, start: Any, limits: Any, first: Any, out: Any, at: Any) -> tuple[Any, Codegen]:
    """Clip as `_clip_line`, past the caches; ``out[at:]`` is aligned to 64 bytes."""
    return types.none(x, start, limits, first, out, at), _clipping(past_caches=True)


def _clipping(*, past_caches: bool) -> Codegen:
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits = ir.IntType(signature.args[2].dtype.bitwidth)
        line = ir.VectorType(bits, LINE_BYTES * 8 // bits.width)

        def pointer(array: int, index: int) -> Any:
            data = _data(context, builder, signature.args[array], arguments[array])
            return builder.bitcast(builder.gep(data, [arguments[index]]), line.as_pointer())

        def constant(value: int) -> Any:
            return ir.Constant(line, [value] * line.count)

        sizes = constant(2 ** (bits.width - 1) - 1)
        elements = builder.load(pointer(0, 1), align=1)
        bounds = builder.load(pointer(2, 3), align=1)
        size = builder.and_(elements, sizes)
        least = builder.select(builder.icmp_signed("<", size, bounds), size, bounds)
        signed = builder.or_(least, builder.and_(elements, builder.not_(sizes)))
        vanishes = builder.icmp_signed("==", bounds, constant(0))
        result = builder.select(vanishes, constant(0), signed)
        store = builder.store(result, pointer(4, 5), align=LINE_BYTES if past_caches else 1)
        if past_caches:
            store.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
        return context.get_dummy_value()

    return codegen


@_intrinsic
def drain(typing: Any) -> tuple[Any, Codegen]:
    """Wait until all that was written past the caches can be seen by others."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.none(), codegen


def _data(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    return context.make_array(kind)(context, builder, array).data


@device
def before_line(out: Array, at: int) -> int:
    """Number of elements from ``out[at]`` to the next line's first."""
    missing: int = (-(address(out) + at * out.itemsize) % LINE_BYTES) // out.itemsize
    return missing


@device
def clip_lines(
    x: Array, start: int, limits: Array, stride: int, out: Array, at: int, count: int, streaming: bool
) -> None:
    """Clip ``count`` elements from ``x[start:]`` to ``out[at:]`` by lines.

    Args:
        x: source.
        start: index of the first element.
        limits: bounds as bits: one for each element, or a line's worth of one bound for all.
        stride: 1 where each element has its bound, 0 where all share one.
        out: target.
        at: index of the first result.
        count: number of elements.
        streaming: whether lines are written past the caches, as far as they are aligned.
    """
    head = min(count, before_line(out, at)) if streaming else 0
    for i in range(head):
        out[at + i] = clipped(x[start + i], limits[i * stride])
    elements = LINE_BYTES // out.itemsize
    whole = head + (count - head) // elements * elements
    for i in range(head, whole, elements):
        if streaming:
            _stream_line(x, start + i, limits, i * stride, out, at + i)
        else:
            _clip_line(x, start + i, limits, i * stride, out, at + i)
    for i in range(whole, count):
        out[at + i] = clipped(x[start + i], limits[i * stride])


@device
def fill(limits: Array, limit: int) -> None:
    """Set all bounds of a line to one."""
    for i in range(limits.size):
        limits[i] = limit
