"""Doing tasks: read panels of tensors, sweep them while they are at hand, write panels of the output."""

import math
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from time import time_ns
from typing import Literal

import numpy as np

from normtree.errors import InvalidTensor, refusal
from normtree.jobs.cut import Panel
from normtree.jobs.facts import Facts, Measured, facts_of
from normtree.jobs.pieces import Ask, Copy, Done, Down, Kind, Lowered, Piece, Result, Stint, Task, Up, Whole, Work
from normtree.jobs.places import Folder, Reader, Sink, Target
from normtree.jobs.questions import Answer, Gathered, Held, Question, fold, outside
from normtree.jobs.root import Aim, Top
from normtree.jobs.search import Found, search
from normtree_kernels import parts, sweep
from normtree_kernels.arguments import bad_element
from normtree_kernels.difference import difference
from normtree_kernels.dtypes import Array, Float64Array
from normtree_kernels.radius import settle
from normtree_kernels.refusals import Refusal, ValueRefused

Balls = tuple[Float64Array, ...]


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


_KINDS: dict[type, Kind] = {Copy: "copy", Whole: "whole", Up: "up", Ask: "round", Down: "down"}


def _weight(piece: Piece) -> int:
    return piece.stop - piece.start if isinstance(piece, Copy) else piece.work.nbytes


def _do(piece: Piece, reader: Reader, sink: Sink | None, scratch: Scratch) -> Result:
    if isinstance(piece, Up):
        return tuple(_up(piece.work, held, reader) for held in _read(piece, reader, scratch))
    if isinstance(piece, Ask):
        return _ask(piece, reader, scratch)
    if sink is None:
        raise TypeError(f"a {type(piece).__name__} writes, but its task opened no output")
    if isinstance(piece, Copy):
        sink.copy(reader, piece.start, piece.stop)
        return None
    if isinstance(piece, Whole):
        return _whole(piece.work, reader, sink, scratch)
    box = piece.work.cut.box(piece.first, piece.last)
    return joined([_down(piece.work, held, piece.balls, box, sink, scratch) for held in _read(piece, reader, scratch)])


def _read(piece: Up | Ask | Down, reader: Reader, scratch: Scratch) -> Iterator[Held]:
    """Read panels, one after the other into the same buffer."""
    cut = piece.work.cut
    for panel in cut.panels(piece.first, piece.last):
        if isinstance(piece, Ask) and not piece.question.concerns(panel):
            yield Held(cut, panel, np.empty(0, np.uint8))
        else:
            yield _fill(piece.work, panel, scratch.take("y", cut.nbytes(panel)), reader)


def _fill(work: Work, panel: Panel, buffer: Array, reader: Reader) -> Held:
    at = 0
    for start, stop in work.cut.runs(panel):
        reader.read_into(work.start + start, buffer[at : at + stop - start].data)
        at += stop - start
    return Held(work.cut, panel, buffer)


def _up(work: Work, held: Held, reader: Reader) -> Answer:
    """Aggregate a panel."""
    norms = held.norms(work.layout.norm.inner.norm)
    if not np.isfinite(norms).all():
        _refuse(work, held)
    return (norms,)


def _ask(piece: Ask, reader: Reader, scratch: Scratch) -> tuple[Answer, ...]:
    """Answer a question about each panel; what is to be added is added here already."""
    cut, question = piece.work.cut, piece.question
    box = cut.box(piece.first, piece.last)
    answers = [question.of(held, box) if held.elements.size else () for held in _read(piece, reader, scratch)]
    if not question.is_added:
        return tuple(answers)
    added = tuple(np.asarray(sum(each)) for each in zip(*answers, strict=True))
    return (added, *[()] * (len(answers) - 1))


def _whole(work: Work, reader: Reader, sink: Sink, scratch: Scratch) -> Facts:
    """Read a tensor once, and project it."""
    work = replace(work, cut=work.cut.in_rows)
    cut = work.cut
    y = scratch.take("y", work.nbytes)
    up = Gathered(cut)
    panels = []
    for index, panel in enumerate(cut.panels(0, cut.count)):
        ((start, stop),) = cut.runs(panel)
        held = _fill(work, panel, y[start:stop], reader)
        up.take(index, (_up(work, held, reader),))
        panels.append(held)
    v = fold(work.layout.norm.inner.norm, up.whole[0])
    with named(work):
        if work.ranks and work.aim.goal:
            tensor = y.view(work.layout.element).reshape(work.layout.shape)
            work = replace(work, aim=Aim(settled=settle(work.aim.goal, work.layout.norm, tensor)))
        found = _answered(work, v, panels)
    box = cut.box(0, cut.count)
    lowered = [_down(work, held, found.balls, box, sink, scratch) for held in panels]
    after = Gathered(cut)
    after.take(0, tuple((norms,) for part in lowered for norms in part.norms))
    return finished(work, v, found.top, after.whole[0], joined(lowered))


def _answered(work: Work, v: Float64Array, panels: list[Held]) -> Found:
    """Search the balls of a tensor that is at hand."""
    asking = search(work, v)
    box = work.cut.box(0, work.cut.count)
    try:
        question = next(asking)
        while True:
            question = asking.send(_answer(work, question, panels, box))
    except StopIteration as found:
        result: Found = found.value
        return result


def _answer(work: Work, question: Question, panels: list[Held], box: Panel) -> Answer:
    gathered = Gathered(work.cut, is_added=question.is_added, by_chunk=question.by_chunk)
    gathered.take(0, tuple(question.of(held, box) for held in panels))
    return gathered.whole


def finished(work: Work, v: Float64Array, top: Top, after: Float64Array, lowered: Lowered) -> Facts:
    """Put together what is known of a tensor when all of its panels are written.

    Args:
        work: the tensor.
        v: its fibres' norms before.
        top: the root.
        after: norms of the parts of its fibres as they are now, (rows, chunks, width, rest…).
        lowered: of all panels, in any order.
    """
    layout = work.layout
    measured = Measured(fold(layout.norm.inner.norm, after), math.sqrt(lowered.squares), lowered.nonzero)
    return facts_of(work.name, work.shard, work.rule, layout, layout.to_norm(v), top, measured)


@contextmanager
def named(work: Work) -> Iterator[None]:
    """Say which tensor it was.

    Raises:
        InvalidTensor: whatever was wrong with it.
    """
    try:
        yield
    except Refusal as error:
        raise refusal(error.about(f"{work.shard}: {work.name}"), InvalidTensor) from None


def _down(work: Work, held: Held, balls: Balls, box: Panel, sink: Sink, scratch: Scratch) -> Lowered:
    """Project a panel, write it, and measure what is written while it is at hand."""
    layout, kept = work.layout, work.layout.kept
    out = replace(held, elements=scratch.take("x", held.elements.size))
    here = [outside(values, box, held.panel) for values in balls]
    if held.cut.is_across and layout.norm.inner.norm == "l1":
        results = out.parts
        taus, lows, powers = here
        parts.shrink(held.parts, (taus, lows, powers), results)
        if not np.may_share_memory(results, out.elements):
            out.fibres[...] = results.reshape(out.fibres.shape)
    else:
        v, u = here
        if held.cut.is_across:
            u = parts.radii_of_parts(layout.norm.inner.norm, v, u)
        sweep.down(layout.norm.inner.norm, held.fibres, kept, v, u, out.fibres)
    at = 0
    for start, stop in held.cut.runs(held.panel):
        sink.write(work.start + start, out.elements[at : at + stop - start].data)
        at += stop - start
    distance, nonzero = difference(held.elements.view(layout.element), out.elements.view(layout.element))
    return Lowered((out.norms(layout.norm.inner.norm),), distance * distance, nonzero)


def joined(lowered: list[Lowered]) -> Lowered:
    """Put together what was measured of several parts."""
    norms = tuple(norms for part in lowered for norms in part.norms)
    return Lowered(norms, math.fsum(part.squares for part in lowered), sum(part.nonzero for part in lowered))


def _refuse(work: Work, held: Held) -> None:
    """Say which element of a panel is not finite, or that a norm overflows.

    Raises:
        InvalidTensor: always.
    """
    layout, panel, where = work.layout, held.panel, f"{work.shard}: {work.name}"
    elements = held.elements.view(layout.element)
    found = np.flatnonzero(~np.isfinite(elements))
    if not found.size:
        first, last = panel.rows[0], panel.rows[1] - 1
        why = f"a fibre's norm overflows float64 in rows {first} to {last}; scale the tensor down"
        raise refusal(ValueRefused(where, "a finite norm", math.inf, why), InvalidTensor)
    *place, rest = np.unravel_index(int(found[0]), (*panel.sides, elements.size // math.prod(panel.sides)))
    row, along, across = (
        int(i) + side[0] for i, side in zip(place, (panel.rows, panel.length, panel.width), strict=True)
    )
    whole = ((row * layout.length + along) * layout.width + across) * math.prod(layout.rest) + int(rest)
    index = [int(i) for i in np.unravel_index(whole, layout.own_shape)]
    raise refusal(bad_element(where, index, elements[found[0]]), InvalidTensor)
