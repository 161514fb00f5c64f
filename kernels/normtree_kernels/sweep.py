"""One block, one level: the up-sweep that aggregates its fibres and the down-sweep that projects them.

These two functions are all the work there is. The upper levels of the tree, a thread, a Ray task and the service's
own process call the same ones, so a block's bits do not depend on who computes them.
"""

from math import prod
from typing import Any, Literal

import numpy as np

from normtree_kernels import columns, rows
from normtree_kernels.codes import CODES, L1, L2, LINF
from normtree_kernels.dtypes import Array, Float64Array, Int64Array
from normtree_kernels.fibres import Fibres, flat, flat_out, lay_out, packed_panels

# Results at least this large are not read again soon enough to be found in a cache; runs of neighbouring elements
# shorter than these cost more in broken lines than streaming saves.
STREAM_BYTES = 1 << 23
_STREAM_RUN_BYTES = {"rows": 1 << 13, "columns": 1 << 12}

# One kernel a norm, so that a call compiles, or loads, no more than it needs.
_ROWS = {L1: rows.shrink, L2: rows.scale, LINF: rows.clip}
_COLUMNS = {L1: columns.shrink, L2: columns.scale, LINF: columns.clip}


def up(norm: str, block: Array, kept: int) -> Float64Array:
    """Aggregate a block: the norm of each of its fibres.

    Args:
        norm: ``l1``, ``l2`` or ``linf``.
        block: float array, any strides; its first ``kept`` axes tell the fibres apart, the others are
            aggregated. Not changed.
        kept: number of axes that stay.

    Returns:
        A new float64 array of shape ``block.shape[:kept]``, NaN or infinite where a fibre holds such a value.

    Cost:
        Reads the block once.
    """
    if block.size == 0:
        return np.zeros(block.shape[:kept])
    v = np.empty(block.shape[:kept])
    line = v.reshape(-1)
    fibres = lay_out(kept, block)
    code = _code(norm, fibres.length)
    if fibres.kind == "packed":
        for panel in packed_panels(block, kept):
            v[panel] = up(norm, _pack(block[panel], kept), kept)
    elif fibres.kind == "rows":
        for part, (offsets,) in fibres.panels():
            rows.up(code, flat(block), offsets, fibres.length, line[part])
    else:
        for part, (offsets,) in fibres.panels():
            columns.up(code, flat(block), offsets, fibres.length, fibres.steps[0], fibres.width, line[part])
    return v


def down(norm: str, block: Array, kept: int, v: Float64Array, u: Float64Array, out: Array) -> None:
    """Project each fibre of a block onto its own ball.

    Args:
        norm: ``l1``, ``l2`` or ``linf``.
        block: as for `up`. Not changed.
        kept: as for `up`.
        v: float64, ``block.shape[:kept]``: the fibres' norms, from `up`, finite.
        u: float64, same shape: the fibres' radii, finite and >= 0.
        out: array of the block's shape and type that shares no memory with it, or the block itself; overwritten.

    Cost:
        Reads the fibres that do not vanish, writes ``out`` once; an l1 level reads its fibres a few times more.
    """
    if block.size == 0:
        return
    fibres = lay_out(kept, block, out)
    code = _code(norm, fibres.length)
    if fibres.kind == "packed":
        for panel in packed_panels(block, kept):
            _down_packed(norm, block[panel], kept, v[panel], u[panel], out[panel])
        return
    norms, radii = _line(v), _line(u)
    streaming = streams(out, fibres.kind, fibres.length if fibres.kind == "rows" else fibres.width)
    for part, (offsets, out_offsets) in fibres.panels():
        source, target, v_here, u_here = flat(block), flat_out(out), norms[part], radii[part]
        if fibres.kind == "rows":
            _ROWS[code](source, offsets, fibres.length, v_here, u_here, target, out_offsets, streaming)
            continue
        balls = _thresholds(block, offsets, fibres, v_here, u_here) if code == L1 else (v_here, u_here)
        project: Any = _COLUMNS[code]
        project(
            source, offsets, fibres.length, fibres.steps[0], fibres.width, *balls,
            target, out_offsets, fibres.steps[1], streaming,

        )  # fmt: skip


def _thresholds(
    block: Array, offsets: Int64Array, fibres: Fibres, v: Float64Array, u: Float64Array
) -> tuple[Float64Array, ...]:
    """Columns' l1 thresholds, in two parts, and grids, in place of their norms and radii."""
    found = np.empty((3, v.size))
    columns.thresholds(flat(block), offsets, fibres.length, fibres.steps[0], fibres.width, v, u, *found)
    return tuple(map(_line, found))


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
            sums[panel], counts[panel] = active(_pack(block[panel], kept), kept, mu[panel])
        return sums, counts
    levels, lines = _line(mu), (sums.reshape(-1), counts.reshape(-1))
    for part, (offsets,) in fibres.panels():
        results = lines[0][part], lines[1][part]
        if fibres.kind == "rows":
            rows.active(flat(block), offsets, fibres.length, levels[part], *results)
        else:
            columns.active(flat(block), offsets, fibres.length, fibres.steps[0], fibres.width, levels[part], *results)
    return sums, counts


def _code(norm: str, length: int) -> int:
    """The kernels' code of a norm; a fibre of one element has but one ball, the interval that linf clips to."""
    return CODES[norm if length > 1 else "linf"]


def _line(values: Float64Array) -> Float64Array:
    """See fibres' values as one row; always read-only, so that kernels are compiled for one kind of array."""
    line = np.ascontiguousarray(values).reshape(-1).view()
    line.flags.writeable = False
    return line


def _pack(block: Array, kept: int) -> Array:
    """Copy a panel to native elements, fibre after fibre."""
    packed = np.empty((prod(block.shape[:kept]), prod(block.shape[kept:])), block.dtype.newbyteorder("="))
    packed.reshape(block.shape)[...] = block
    return packed.reshape(block.shape)


def _down_packed(norm: str, block: Array, kept: int, v: Float64Array, u: Float64Array, out: Array) -> None:
    packed = _pack(block, kept)
    result = np.empty_like(packed)
    down(norm, packed, kept, v, u, result)
    out[...] = result
