"""Doing tasks: read rows of tensors, sweep them while they are in the caches, write rows of the output."""

import math
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from time import time_ns
from typing import Literal

import numpy as np

from normtree.errors import InvalidTensor
from normtree.jobs.facts import Facts, Measured, facts_of
from normtree.jobs.pieces import Copy, Done, Down, Lowered, Piece, Result, Stint, Task, Up, Whole, Work
from normtree.jobs.places import Folder, Reader, Sink, Target
from normtree.jobs.root import Aim, Top, top_of
from normtree_kernels import sweep
from normtree_kernels.difference import difference
from normtree_kernels.dtypes import Array, Float64Array
from normtree_kernels.euclidean import water_levels
from normtree_kernels.radius import settle

PANEL_BYTES = 1 << 20  # rows swept at a time: what was read is swept, and what was swept is written, out of the caches


class Scratch:
    """A worker's two buffers, for what it reads and for what it writes; used again, for fresh memory is slow."""

    def __init__(self) -> None:
        """Begin with empty buffers."""
        self._buffers = {"y": np.empty(0, np.uint8), "x": np.empty(0, np.uint8)}

    def take(self, which: Literal["y", "x"], nbytes: int) -> Array:
        """Take a buffer of that many bytes; what it held is lost."""
        if self._buffers[which].size < nbytes:
            self._buffers[which] = np.empty(0, np.uint8)  # the old one goes before the new one comes
            self._buffers[which] = np.empty(nbytes, np.uint8)
        return self._buffers[which][:nbytes]


def perform(source: Folder, target: Target, task: Task, scratch: Scratch, node: str) -> Done:
    """Do a task.

    Args:
        source: the input.
        target: the output.
        task: what to do.
        scratch: buffers of this worker alone.
        node: this worker's node, for the report.

    Raises:
        StorageFailed, StorageFull: a file cannot be read or written.
        InvalidTensor: an element is not finite; which one is told.
    """
    start_ns = time_ns()
    with ExitStack() as held:
        reader = held.enter_context(source.reader(task.shard))
        sink = held.enter_context(target.sink(task.shard, task.size)) if task.written else None
        results = tuple(_do(piece, reader, sink, scratch) for piece in task.pieces)
    worker = f"{node}/{threading.get_native_id()}"
    kind = max(task.pieces, key=_weight)
    stint = Stint(_KINDS[type(kind)], task.shard, worker, start_ns, time_ns(), task.read, task.written)
    return Done(task, results, stint)


_KINDS: dict[type, Literal["copy", "whole", "up", "down"]] = {Copy: "copy", Whole: "whole", Up: "up", Down: "down"}


def _weight(piece: Piece) -> int:
    return piece.stop - piece.start if isinstance(piece, Copy) else piece.work.nbytes


def _do(piece: Piece, reader: Reader, sink: Sink | None, scratch: Scratch) -> Result:
    if isinstance(piece, Up):
        return _up(piece, reader, scratch.take("y", panel_bytes(piece.work)))
    if sink is None:
        raise TypeError(f"a {type(piece).__name__} writes, but its task opened no output")
    if isinstance(piece, Copy):
        sink.copy(reader, piece.start, piece.stop)
        return None
    if isinstance(piece, Whole):
        return _whole(piece.work, reader, sink, scratch)
    return _down(piece, reader, sink, scratch)


def _up(piece: Up, reader: Reader, panel: Array) -> Float64Array:
    """Aggregate rows, panel by panel."""
    work, layout = piece.work, piece.work.layout
    v = np.empty((piece.last - piece.first, *layout.v_shape[1:]))
    for first, last in _panels(work, piece.first, piece.last):
        rows = panel[: (last - first) * layout.row_bytes]
        reader.read_into(work.at(first), rows.data)
        v[first - piece.first : last - piece.first] = _aggregate(work, rows)
    _check_finite(work, v, reader, piece.first)
    return v


def _down(piece: Down, reader: Reader, sink: Sink, scratch: Scratch) -> Lowered:
    """Project rows, panel by panel, and measure what is written while it is at hand."""
    work = piece.work
    panel = scratch.take("y", panel_bytes(work))
    lowered = []
    for first, last in _panels(work, piece.first, piece.last):
        rows = panel[: (last - first) * work.layout.row_bytes]
        reader.read_into(work.at(first), rows.data)
        here = slice(first - piece.first, last - piece.first)
        lowered.append(_lower(work, first, rows, piece.v[here], piece.u[here], sink, scratch))
    return _joined(lowered)


def _whole(work: Work, reader: Reader, sink: Sink, scratch: Scratch) -> Facts:
    """Read a tensor once, and project it."""
    layout = work.layout
    y = scratch.take("y", work.nbytes)
    v = np.empty(layout.v_shape)
    for first, last in _panels(work, 0, layout.rows):
        rows = y[first * layout.row_bytes : last * layout.row_bytes]
        reader.read_into(work.at(first), rows.data)
        v[first:last] = _aggregate(work, rows)
    _check_finite(work, v, reader, 0)
    top = _top(work, y, v)
    u = layout.to_rows(top.crown.radii)
    lowered = []
    for first, last in _panels(work, 0, layout.rows):
        rows = y[first * layout.row_bytes : last * layout.row_bytes]
        lowered.append(_lower(work, first, rows, v[first:last], u[first:last], sink, scratch))
    return finished(work, layout.to_norm(v), top, lowered)


def finished(work: Work, v: Float64Array, top: Top, lowered: list[Lowered]) -> Facts:
    """Put together what is known of a tensor when all of its rows are written, given in order."""
    whole = _joined(lowered)
    after = Measured(whole.v, math.sqrt(whole.squares), whole.nonzero)
    return facts_of(work.name, work.shard, work.rule, work.layout, v, top, after)


def _top(work: Work, y: Array, v: Float64Array) -> Top:
    """Find the root of a tensor that is at hand, which a single level's groups and the exact projection want."""
    layout, norm = work.layout, work.layout.norm
    tensor, in_order = y.view(layout.element).reshape(layout.shape), layout.to_norm(v)
    with named(work):
        aim = work.aim if work.aim.goal is None else Aim(settle(work.aim.goal, norm, tensor))
        top = top_of(norm, in_order, aim)
    if not work.own or top.crown.inside or top.crown.radius == 0.0:
        return top
    mu = water_levels(tensor, norm, in_order, top.crown.radius, 1)
    return Top(replace(top.crown, radii=mu), None)


@contextmanager
def named(work: Work) -> Iterator[None]:
    """Say which tensor it was."""
    try:
        yield
    except InvalidTensor as error:
        raise InvalidTensor(f"{work.shard}: {work.name}: {error}") from None


def _lower(
    work: Work, first: int, rows: Array, v: Float64Array, u: Float64Array, sink: Sink, scratch: Scratch
) -> Lowered:
    layout = work.layout
    out = scratch.take("x", rows.size)
    sweep.down(layout.norm.inner.norm, layout.fibres(rows), layout.kept, v, u, layout.fibres(out))
    sink.write(work.at(first), out.data)
    distance, nonzero = difference(rows.view(layout.element), out.view(layout.element))
    return Lowered(_aggregate(work, out), distance * distance, nonzero)


def _joined(lowered: list[Lowered]) -> Lowered:
    v = np.concatenate([part.v for part in lowered])
    return Lowered(v, math.fsum(part.squares for part in lowered), sum(part.nonzero for part in lowered))


def _aggregate(work: Work, rows: Array) -> Float64Array:
    return sweep.up(work.layout.norm.inner.norm, work.layout.fibres(rows), work.layout.kept)


def _panels(work: Work, first: int, last: int) -> list[tuple[int, int]]:
    step = panel_bytes(work) // work.layout.row_bytes
    return [(start, min(start + step, last)) for start in range(first, last, step)]


def panel_bytes(work: Work) -> int:
    """Bytes of the rows that are swept at a time; at least one row."""
    return max(1, PANEL_BYTES // work.layout.row_bytes) * work.layout.row_bytes


def _check_finite(work: Work, v: Float64Array, reader: Reader, first: int) -> None:
    """Refuse elements that are not finite, or norms that overflow; the first row at fault is read again to tell."""
    bad = np.argwhere(~np.isfinite(v))
    if not len(bad):
        return
    layout = work.layout
    row = first + int(bad[0][0])
    buffer = np.empty(layout.row_bytes, np.uint8)
    reader.read_into(work.at(row), buffer.data)
    elements = buffer.view(layout.element)
    found = np.flatnonzero(~np.isfinite(elements))
    if not found.size:
        raise InvalidTensor(f"{work.name}: a fibre's norm overflows float64 in row {row}; scale the tensor down")
    place = row * elements.size + int(found[0])
    index = [int(i) for i in np.unravel_index(place, layout.shape)]
    raise InvalidTensor(
        f"{work.shard}: {work.name}: element {index} is {elements[found[0]]}; every element must be finite"
    )
