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
from normtree.jobs.plan.cut import Panel
from normtree.jobs.plan.facts import Facts, Measured, facts_of, threshold_of
from normtree.jobs.plan.pieces import AskPanels, Copy, Lowered, Piece, Result, Stint, Task, TaskDone, TensorWork, Whole
from normtree.jobs.storage.places import Folder, Reader, Sink, Target
from normtree.jobs.tasks.panels import HeldPanels, PanelAnswers
from normtree_kernels.arguments import bad_element
from normtree_kernels.certificates.difference import difference
from normtree_kernels.dtypes import Array, Float64Array
from normtree_kernels.parts.part import fold
from normtree_kernels.parts.questions import Answer, Question
from normtree_kernels.refusals import Refusal, ValueRefused
from normtree_kernels.tree.projection import Asking, Found, drive, project
from normtree_kernels.vector_norm import Balls


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


def perform(source: Folder, target: Target, task: Task, scratch: Scratch, node: str) -> TaskDone:
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
    kind = max(task.pieces, key=_weight).kind
    stint = Stint(kind, task.shard, worker, start_ns, time_ns(), task.read, task.written)
    return TaskDone(task, results, stint)


def _weight(piece: Piece) -> int:
    return piece.stop - piece.start if isinstance(piece, Copy) else piece.work.nbytes


def _do(piece: Piece, reader: Reader, sink: Sink | None, scratch: Scratch) -> Result:
    if isinstance(piece, AskPanels):
        return _ask(piece, reader, scratch)
    if sink is None:
        raise TypeError(f"a {type(piece).__name__} writes, but its task opened no output")
    if isinstance(piece, Copy):
        sink.copy(reader, piece.start, piece.stop)
        return None
    if isinstance(piece, Whole):
        return _whole(piece.work, reader, sink, scratch)
    cut = piece.work.cut
    box = cut.box(piece.first, piece.last)
    panels = (_read(piece.work, panel, reader, scratch) for panel in cut.panels(piece.first, piece.last))
    return joined([_down(piece.work, held, piece.balls, box, sink, scratch) for held in panels])


def _read(work: TensorWork, panel: Panel, reader: Reader, scratch: Scratch) -> HeldPanels:
    """Read a panel into the buffer that held the last."""
    return _fill(work, panel, scratch.take("y", work.cut.nbytes(panel)), reader)


def _fill(work: TensorWork, panel: Panel, buffer: Array, reader: Reader) -> HeldPanels:
    at = 0
    for start, stop in work.cut.runs(panel):
        reader.read_into(work.start + start, buffer[at : at + stop - start].data)
        at += stop - start
    return HeldPanels(work.cut, panel, buffer)


def _ask(piece: AskPanels, reader: Reader, scratch: Scratch) -> tuple[Answer, ...]:
    """Put a question to each panel that it concerns; what is to be added is added here already."""
    work, cut, question = piece.work, piece.work.cut, piece.question
    box = cut.box(piece.first, piece.last)
    answers = [
        _answer(work, question, _read(work, panel, reader, scratch), box) if question.concerns(cut.start(panel)) else ()
        for panel in cut.panels(piece.first, piece.last)
    ]
    if not question.is_added:
        return tuple(answers)
    added = tuple(np.asarray(sum(each)) for each in zip(*answers, strict=True))
    return (added, *[()] * (len(answers) - 1))


def _answer(work: TensorWork, question: Question, held: HeldPanels, box: Panel) -> Answer:
    answer = held.answer(question, box)
    if question == work.norms and not np.isfinite(answer[0]).all():
        _refuse(work, held)
    return answer


def _whole(work: TensorWork, reader: Reader, sink: Sink, scratch: Scratch) -> Facts:
    """Read a tensor once, and project it."""
    work = replace(work, cut=work.cut.in_rows)
    cut = work.cut
    box = cut.box(0, cut.count)
    y = scratch.take("y", work.nbytes)
    panels: list[HeldPanels] = []

    def read() -> Iterator[HeldPanels]:
        for panel in cut.panels(0, cut.count):
            ((start, stop),) = cut.runs(panel)
            panels.append(_fill(work, panel, y[start:stop], reader))
            yield panels[-1]

    def ask(question: Question) -> Answer:
        answers = PanelAnswers(cut, question)
        for index, held in enumerate(panels or read()):  # the first question meets each panel in the caches
            answers.take(index, [_answer(work, question, held, box)])
        return answers.whole

    found = drive(asking(work), ask)
    lowered = joined([_down(work, held, found.balls, box, sink, scratch) for held in panels])
    after = PanelAnswers(cut, work.norms)
    after.take(0, lowered.norms)
    return finished(work, found, threshold_alone(work, found), after, lowered)


def asking(work: TensorWork, v: Float64Array | None = None, *, is_shared: bool = False) -> Asking[Found]:
    """Project a tensor: `normtree_kernels.tree.projection.project`.

    Args:
        work: the tensor.
        v: its fibres' norms, where they are known.
        is_shared: whether its root is that of several tensors.

    Raises:
        InvalidTensor: its norm overflows, or a sum that it takes.
    """
    with named(work):
        found = yield from project(work.problem(is_shared=is_shared), v)
        if not found.top.is_finite:
            why = f"its norm ({work.layout.norm}) overflows float64; scale the tensor down"
            raise ValueRefused("y", "a finite norm", math.inf, why)
        return found


def threshold_alone(work: TensorWork, found: Found) -> float | None:
    """The threshold at a tensor's own root; the exact projection that has an algorithm of its own has none."""
    layout, top = work.layout, found.top
    if work.own and not top.inside and top.radius > 0.0:
        return None
    return threshold_of([layout.norm], [layout.to_norm(found.v)], [top])


def finished(work: TensorWork, found: Found, threshold: float | None, after: PanelAnswers, lowered: Lowered) -> Facts:
    """Put together what is known of a tensor when all of its panels are written.

    Args:
        work: the tensor.
        found: what was found for its projection.
        threshold: at the root.
        after: what its panels then answer to the question of the up-sweep.
        lowered: of all panels, in any order.
    """
    measured = Measured(fold(work.norms.norm, after.whole[0]), math.sqrt(lowered.squares), lowered.nonzero)
    return facts_of(work.name, work.shard, work.rule, work.layout, found, threshold, measured)


@contextmanager
def named(work: TensorWork) -> Iterator[None]:
    """Say which tensor it was.

    Raises:
        InvalidTensor: whatever was wrong with it.
    """
    try:
        yield
    except Refusal as error:
        raise refusal(error.about(f"{work.shard}: {work.name}"), InvalidTensor) from None


def _down(work: TensorWork, held: HeldPanels, balls: Balls, box: Panel, sink: Sink, scratch: Scratch) -> Lowered:
    """Project a panel, write it, and measure what is written while it is at hand."""
    layout, here = work.layout, held.panel.within(box)
    out = replace(held, elements=scratch.take("x", held.elements.size))
    held.part.project(layout.norm.inner.norm, tuple(values[here] for values in balls), out.part.fibres)
    at = 0
    for start, stop in held.cut.runs(held.panel):
        sink.write(work.start + start, out.elements[at : at + stop - start].data)
        at += stop - start
    distance, nonzero = difference(held.elements.view(layout.element), out.elements.view(layout.element))
    return Lowered((out.answer(work.norms, box),), distance * distance, nonzero)


def joined(lowered: list[Lowered]) -> Lowered:
    """Put together what was measured of several parts."""
    norms = tuple(norms for part in lowered for norms in part.norms)
    return Lowered(norms, math.fsum(part.squares for part in lowered), sum(part.nonzero for part in lowered))


def _refuse(work: TensorWork, held: HeldPanels) -> None:
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
