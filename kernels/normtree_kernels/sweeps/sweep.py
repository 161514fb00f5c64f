"""One part of a tensor, one level: the up-sweep that aggregates its fibres and the down-sweep that projects them.

These functions are all the work there is. The upper levels of the tree, a thread, a Ray task and the service's own
process call the same ones, so a part's bits do not depend on who computes them.
"""

from math import prod
from typing import Literal

import numpy as np

from normtree_kernels.dtypes import Array, Float64Array, Int64Array
from normtree_kernels.sweeps import active as levels
from normtree_kernels.sweeps.fibres import flat, flat_out, lay_out, packed_panels
from normtree_kernels.vector_norm import Norm

# Results at least this large are not read again soon enough to be found in a cache; runs of neighbouring elements
# shorter than these cost more in broken lines than streaming saves.
STREAM_BYTES = 1 << 23
_STREAM_RUN_BYTES = {"rows": 1 << 13, "columns": 1 << 12}


def up(norm: Norm, block: Array, kept: int, whole: int | None = None) -> Float64Array:
    """Aggregate a block: the norm of each of its fibres.

    Args:
        norm: of the fibres.
        block: float array, any strides; its first ``kept`` axes tell the fibres apart, the others are
            aggregated. Not changed.
        kept: number of axes that stay.
        whole: elements in a fibre, where the block holds parts of fibres. Default: as many as it holds.

    Returns:
        A new float64 array of shape ``block.shape[:kept]``, NaN or infinite where a fibre holds such a value.

    Cost:
        Reads the block once.
    """
    if block.size == 0:
        return np.zeros(block.shape[:kept])
    v = np.empty(block.shape[:kept])
    fibres = lay_out(kept, block)
    norm = norm if (whole or fibres.length or prod(block.shape[kept:])) > 1 else norm.of_one
    if fibres.kind == "packed" or (fibres.kind == "columns" and norm.columns_up is None):
        for panel in packed_panels(block, kept):
            packed, offsets = _pack(block[panel], kept)
            norms = np.empty(len(packed))
            norm.rows_up(flat(packed), offsets, packed.shape[1], norms)
            v[panel] = norms.reshape(v[panel].shape)
        return v
    x, line = flat(block), v.reshape(-1)
    for part, (offsets,) in fibres.panels():
        if fibres.kind == "rows":
            norm.rows_up(x, offsets, fibres.length, line[part])
        elif norm.columns_up:
            norm.columns_up(x, offsets, fibres.length, fibres.steps[0], fibres.width, line[part])
    return v


def down(
    norm: Norm, block: Array, kept: int, v: Float64Array, u: Float64Array, out: Array, whole: int | None = None
) -> None:
    """Project each fibre of a block onto its own ball.

    Args:
        norm: of the fibres.
        block: as for `up`. Not changed.
        kept: as for `up`.
        v: float64, ``block.shape[:kept]``: the fibres' norms, from `up`, finite.
        u: float64, same shape: the fibres' radii, finite and >= 0.
        out: array of the block's shape and type that shares no memory with it, or the block itself; overwritten.
        whole: as for `up`; then a norm that does not search, and the norms and radii of whole fibres.

    Cost:
        Reads the fibres that do not vanish, writes ``out`` once; an l1 level reads its fibres a few times more.
    """
    if block.size == 0:
        return
    fibres = lay_out(kept, block, out)
    length = whole or fibres.length or prod(block.shape[kept:])
    norm = norm if length > 1 else norm.of_one
    if fibres.kind == "packed" or (fibres.kind == "columns" and norm.columns_down is None):
        for panel in packed_panels(block, kept):
            packed, offsets = _pack(block[panel], kept)
            result, balls = np.empty_like(packed), (read_only_line(v[panel]), read_only_line(u[panel]))
            norm.rows_down(flat(packed), offsets, packed.shape[1], length, *balls, flat_out(result), offsets, False)
            out[panel] = result.reshape(out[panel].shape)
        return
    norms, radii = read_only_line(v), read_only_line(u)
    source, target = flat(block), flat_out(out)
    streaming = streams(out, fibres.kind, fibres.length if fibres.kind == "rows" else fibres.width)
    for part, (offsets, out_offsets) in fibres.panels():
        balls = norms[part], radii[part]
        if fibres.kind == "rows":
            norm.rows_down(source, offsets, fibres.length, length, *balls, target, out_offsets, streaming)
        elif norm.columns_down:
            walk = fibres.length, fibres.steps[0], fibres.width, length
            norm.columns_down(source, offsets, *walk, *balls, target, out_offsets, fibres.steps[1], streaming)


def streams(out: Array, kind: Literal["rows", "columns"], run: int) -> bool:
    """Tell whether a result in runs of so many neighbours is better written past the caches."""
    return bool(out.nbytes >= STREAM_BYTES and out.itemsize * run >= _STREAM_RUN_BYTES[kind])


def active(block: Array, kept: int, mu: Float64Array) -> tuple[Float64Array, Int64Array]:
    """Sum and count, for each fibre of a block, its magnitudes above the fibre's own level.

    Args:
        block: as for `up`. Not changed.
        kept: as for `up`.
        mu: float64, ``block.shape[:kept]``: the levels, >= 0.

    Returns:
        Two new arrays of shape ``block.shape[:kept]``: float64 sums and int64 counts.

    Cost:
        Reads the block once.
    """
    sums, counts = np.zeros(block.shape[:kept]), np.zeros(block.shape[:kept], np.int64)
    if block.size == 0:
        return sums, counts
    fibres = lay_out(kept, block)
    if fibres.kind == "packed":
        for panel in packed_panels(block, kept):
            packed, _ = _pack(block[panel], kept)
            found = active(packed, 1, mu[panel].reshape(-1))
            sums[panel], counts[panel] = (each.reshape(sums[panel].shape) for each in found)
        return sums, counts
    x, line, lines = flat(block), read_only_line(mu), (sums.reshape(-1), counts.reshape(-1))
    for part, (offsets,) in fibres.panels():
        here = line[part], lines[0][part], lines[1][part]
        if fibres.kind == "rows":
            levels.rows_active(x, offsets, fibres.length, *here)
        else:
            levels.columns_active(x, offsets, fibres.length, fibres.steps[0], fibres.width, *here)
    return sums, counts


def read_only_line(values: Float64Array) -> Float64Array:
    """See fibres' values as one row; always read-only, so that kernels are compiled for one kind of array."""
    line = np.ascontiguousarray(values).reshape(-1).view()
    line.flags.writeable = False
    return line


def _pack(block: Array, kept: int) -> tuple[Array, Int64Array]:
    """Copy a panel to native elements, fibre after fibre: rows, and where each begins."""
    count, length = prod(block.shape[:kept]), prod(block.shape[kept:])
    packed = np.empty((count, length), block.dtype.newbyteorder("="))
    packed.reshape(block.shape)[...] = block
    return packed, np.arange(count) * length
