"""One run of the tree: questions to the leaves, the root between them, and the way down; and what came of it."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from math import prod
from threading import get_native_id
from time import monotonic_ns, perf_counter_ns
from typing import Any, Protocol

import numpy as np

from normtree.engine.cancel import Cancel
from normtree.engine.executor import Executor, Leaf
from normtree.engine.leaves import Branch, Posted, leaf_ask, leaf_project, sweep_of
from normtree.engine.memory.arena import Arena
from normtree.engine.memory.slate import Slate
from normtree.engine.memory.stop import Stopped
from normtree.engine.memory.tensor import Tensor
from normtree.engine.plan import Plan
from normtree.engine.survivors import Groups, Survivors, cut_groups, find_survivors
from normtree.engine.timing.phases import Phase, Phases
from normtree.engine.timing.schema import Span, Sweep
from normtree.errors import InvalidTensor, refusal
from normtree_kernels.arrays import Held
from normtree_kernels.compiled.lanes import chunk_count
from normtree_kernels.dtypes import Float64Array
from normtree_kernels.parts.gathered import Gathered
from normtree_kernels.parts.questions import Answer, Question, Samples
from normtree_kernels.refusals import ValueRefused
from normtree_kernels.tree.blocks import Block
from normtree_kernels.tree.goal import Goal, Reach
from normtree_kernels.tree.projection import Found, ProjectionProblem, project_together

SMALL_BYTES = 1 << 18
"""Of a tensor that one thread projects in some tens of microseconds: a slate and its calls would each take as long."""

Batch = list[tuple[int, Question]]


@dataclass(frozen=True)
class TensorRun:
    """One tensor to project: where it is, where its projection goes, how, and what errors call it.

    With ``survivors``, which is told of them, only the groups that survive are written where that is possible.
    """

    source: Tensor
    target: Tensor
    plan: Plan
    name: str = "tensor"
    survivors: Survivors | None = None


@dataclass(frozen=True)
class Terms:
    """When a run has to end: at `time.monotonic_ns` ``end_ns``, or before that when ``cancel`` ends it."""

    end_ns: int
    cancel: Cancel | None = None


@dataclass(frozen=True)
class Run:
    """One run of the tree.

    Args:
        norms: the tensors' own mixed norms; NaN or infinite where one holds such a value or its norm overflows.
        finite: whether all are, and all together; if not, nothing was projected.
        reach: the radius of the ball, and the outermost groups asked for and left.
        phases: in the order they ran.
        steps: the root's sweeps of the upper levels.
        start_ns: `time.perf_counter_ns` when the engine was asked.
        bytes_moved: bytes of aggregates and radii that crossed between processes.
        retries: leaves that were run again because a worker was lost.
    """

    norms: tuple[float, ...]
    finite: bool
    reach: Reach
    phases: tuple[Phase, ...]
    steps: tuple[Span, ...]
    start_ns: int
    bytes_moved: int
    retries: int

    @property
    def stages_ms(self) -> dict[str, float]:
        """The wall in parts: the time until each phase's end, from the end of the one before."""
        stages = dict.fromkeys(("up", "root", "down"), 0.0)
        before_ns = self.start_ns
        for phase in self.phases:
            stages[phase.sweep] += (phase.stop_ns - before_ns) / 1e6
            before_ns = phase.stop_ns
        return stages

    @property
    def wall_ms(self) -> float:
        """From the question to the last leaf's answer."""
        return (self.phases[-1].stop_ns - self.start_ns) / 1e6

    @property
    def work_ms(self) -> float:
        """Sum of all leaves' work and the root's."""
        return sum([span.stop_ns - span.start_ns for phase in self.phases for span in phase.spans]) / 1e6

    @property
    def span_ms(self) -> float:
        """The critical path: the longest piece of each phase, one after the other."""
        return sum([phase.longest_ns for phase in self.phases]) / 1e6


def run_tree(executor: Executor, slates: Arena, works: Sequence[TensorRun], goal: Goal, terms: Terms) -> Run:
    """Project tensors under one root; blocks until it is done and no leaf runs any more.

    Args:
        executor: runs the leaves.
        slates: where aggregates and radii get their shared memory.
        works: the tensors; several are projected onto one ball together, none of them exactly.
        goal: what to reach; with several, all together.
        terms: when it must end.

    Raises:
        Stopped: the time has passed, or someone cancelled.
        InvalidTensor: an exact projection's sums overflow.
        ArenaFull: no room for the slate in time.
        WorkersLost: workers died again and again.
    """
    start_ns = perf_counter_ns()
    problems = [work.plan.problem for work in works]
    if len(works) > 1:
        problems = [replace(problem, is_shared=True) for problem in problems]
    if not any(work.plan.nbytes for work in works):
        return _of_nothing(works, goal, start_ns)
    if executor.in_process and _is_small(works):
        return _converse(_AtHand(works[0], terms), problems, goal, start_ns)
    with ExitStack() as held:
        wanted = [_shapes(problem, work.plan) for problem, work in zip(problems, works, strict=True)]
        shapes = [shape for each in wanted for some in each for shape in some]
        slate = held.enter_context(Slate(slates, shapes, terms.end_ns))
        if terms.cancel:
            held.enter_context(terms.cancel.watched_by(slate.stop.now))
        return _converse(_OnSlate(executor, works, problems, slate), problems, goal, start_ns)


class _Home(Protocol):
    """Where the tensors of a run are, and how a question reaches them."""

    phases: Phases

    def ask(self, batch: Batch) -> list[Answer]:
        """Put questions, each to the tensor of that index."""

    def project(self, found: Sequence[Found]) -> None:
        """Project the tensors."""


def _converse(home: _Home, problems: Sequence[ProjectionProblem], goal: Goal, start_ns: int) -> Run:
    """Let the algorithm ask, and time what it does between its questions."""
    asking, phases, worker = project_together(problems, goal), home.phases, get_native_id()
    batch: Batch = next(asking)
    found: list[Found] = []
    while not found:
        answers = home.ask(batch)
        asked_ns, nbytes = perf_counter_ns(), sum([each.nbytes for answer in answers for each in answer])
        try:
            batch = asking.send(answers)
        except StopIteration as end:
            found = end.value
        except ValueRefused as error:
            raise refusal(error.about("tensor"), InvalidTensor) from error
        phases.note("root", [Span("root", 0, asked_ns, perf_counter_ns(), nbytes, worker)])
    tops = [each.top for each in found]
    finite = all(top.is_finite for top in tops)
    if finite:
        home.project(found)
    steps = tuple([Span(s.sweep, s.level, s.start_ns, s.stop_ns, s.nbytes, worker) for top in tops for s in top.steps])
    norms = tuple([top.norm for top in tops])
    return Run(norms, finite, tops[0].reach, tuple(phases.done), steps, start_ns, phases.moved, phases.retries)


class _AtHand:
    """A small tensor, in this thread: whether it still must go on is looked up before each reading."""

    def __init__(self, work: TensorRun, terms: Terms) -> None:
        self.phases = Phases()
        self._held = Held(work.source.array(), work.plan.norm, pieces=work.plan.pieces)
        self._target, self._terms, self._nbytes = work.target, terms, work.plan.nbytes
        self._level, self._worker = len(work.plan.norm.levels) - 1, get_native_id()

    def ask(self, batch: Batch) -> list[Answer]:
        """Put a question to the tensor."""
        self._check()
        start_ns = perf_counter_ns()
        answers = [self._held.ask(question) for _, question in batch]
        self._note(sweep_of(batch[0][1]), start_ns, self._nbytes)
        return answers

    def project(self, found: Sequence[Found]) -> None:
        """Project it."""
        self._check()
        start_ns = perf_counter_ns()
        self._held.project(found[0].balls, self._target.array(writable=True))
        self._note("down", start_ns, 2 * self._nbytes)

    def _note(self, sweep: Sweep, start_ns: int, nbytes: int) -> None:
        self.phases.note(sweep, [Span(sweep, self._level, start_ns, perf_counter_ns(), nbytes, self._worker)])

    def _check(self) -> None:
        if monotonic_ns() >= self._terms.end_ns or (self._terms.cancel and self._terms.cancel.is_set):
            raise Stopped


@dataclass(frozen=True)
class _Place:
    """One tensor of a run, and its part of the slate.

    Args:
        branch: the tensor.
        blocks: the leaves'.
        answers: slots by fibres: norms or sums, and where those are wanted numbers; see `Part`.
        samples: first elements of fibres, where those are wanted.
        values: for each fibre: what a question says of it, or what it is projected by.
    """

    branch: Branch
    blocks: tuple[Block, ...]
    answers: tuple[Tensor, ...]
    samples: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    def room(self, question: Question) -> tuple[Tensor, ...]:
        """Where leaves write their answers."""
        if question.is_added:
            return ()
        rooms = self.samples if question.tail else self.answers
        return tuple(replace(room, dtype=dtype) for room, dtype in zip(rooms, question.dtypes, strict=False))

    def post(self, values: Sequence[Float64Array]) -> tuple[Tensor, ...]:
        """Lay values for fibres where leaves find them; norms lie there already, if nothing had to be folded."""
        posted, rooms, norms = [], list(self.values), self.answers[0].array()
        for value in values:
            if np.may_share_memory(value, norms) or not value.size:
                posted.append(replace(self.answers[0], shape=value.shape))
                continue
            room = rooms.pop(0)
            room.array(writable=True)[...] = value
            posted.append(room)
        return tuple(posted)


class _OnSlate:
    """Tensors in shared memory, asked and projected by leaves on an executor."""

    def __init__(
        self, executor: Executor, works: Sequence[TensorRun], problems: Sequence[ProjectionProblem], slate: Slate
    ) -> None:
        self.phases = Phases()
        self._executor, self._works, self._stop = executor, works, slate.stop
        self._workers = max(work.plan.workers for work in works)
        left = iter(slate.tensors)
        self._places = [
            _Place(
                Branch(work.plan.norm, work.source, work.target),
                work.plan.blocks,
                *(tuple(islice(left, len(shapes))) for shapes in _shapes(problem, work.plan)),
            )
            for problem, work in zip(problems, works, strict=True)
        ]

    def ask(self, batch: Batch) -> list[Answer]:
        """Put questions to all blocks of their tensors, side by side."""
        calls, owners, gathered = [], [], {}
        for owner, question in batch:
            place = self._places[owner]
            posted = Posted(question.with_values([]), place.post(question.values), place.room(question))
            gathered[owner] = Gathered(question, [room.array() for room in posted.answers])
            for block in place.blocks:
                if question.concerns(block.part[0] if block.part else 0):
                    calls.append((self._stop, place.branch, block, posted))
                    owners.append(owner)
            self._move(posted.values, posted.answers)
        for owner, answer in zip(owners, self._run(sweep_of(batch[0][1]), leaf_ask, calls), strict=True):
            gathered[owner].add(answer)
        return [gathered[owner].whole for owner, _ in batch]

    def project(self, found: Sequence[Found]) -> None:
        """Project all blocks, or the survivors of tensors of which only they are wanted."""
        calls = []
        for work, place, each in zip(self._works, self._places, found, strict=True):
            balls = place.post(each.balls)
            self._move(balls)
            parts: Sequence[Block | Groups] = self._survivors(work, each) or place.blocks
            calls += [(self._stop, place.branch, part, balls) for part in parts]
        self._run("down", leaf_project, calls)

    def _survivors(self, work: TensorRun, found: Found) -> list[Groups]:
        """Tell who asked for survivors only which they are, and cut them for the leaves."""
        plan = work.plan
        if not work.survivors or plan.in_parts:
            return []
        length = prod(plan.shape[axis] for axis in plan.norm.inner.axes)
        work.survivors.index = find_survivors(plan.norm, found.v, found.u, length, plan.dtype)
        if work.survivors.index is None:
            return []
        return cut_groups(len(work.survivors.index), len(plan.blocks))

    def _run(self, sweep: Sweep, leaf: Leaf[tuple[Span, Answer]], calls: list[tuple[Any, ...]]) -> list[Answer]:
        done = self._executor.run(leaf, calls, workers=self._workers, stop=self._stop)
        self.phases.note(sweep, [span for span, _ in done.values])
        self.phases.retries += done.retries
        return [answer for _, answer in done.values]

    def _move(self, *tensors: Sequence[Tensor]) -> None:
        if not self._executor.in_process:
            self.phases.moved += sum(tensor.nbytes for some in tensors for tensor in some)


def _shapes(problem: ProjectionProblem, plan: Plan) -> tuple[list[tuple[int, ...]], ...]:
    """What a tensor needs on the slate: for answers, for samples, and for fibres' values; see `_Place`."""
    kept, searches = plan.kept_shape, problem.in_chunks and problem.norm.inner.norm.searches
    slots = (chunk_count(problem.whole) if problem.in_chunks else 1, *kept)
    values = 3 if searches else 2 if problem.in_chunks or problem.own else 1
    return (
        [slots] * (2 if searches or problem.own else 1),
        [(1, *kept, *Samples.tail)] if searches else [],
        [kept] * values,
    )


def _is_small(works: Sequence[TensorRun]) -> bool:
    """Tell whether a run is of one small tensor in one block, and of all of it."""
    plan = works[0].plan
    return len(works) == len(plan.blocks) == 1 and plan.nbytes <= SMALL_BYTES and not works[0].survivors


def _of_nothing(works: Sequence[TensorRun], goal: Goal, start_ns: int) -> Run:
    """Project tensors without elements: nothing is read or written, and no memory taken, however many their groups."""
    groups = sum(prod(work.plan.shape[axis] for axis in work.plan.norm.levels[0].axes) for work in works)
    phases = Phases()
    phases.note("root", [Span("root", 0, start_ns, perf_counter_ns(), 0, get_native_id())])
    for work in works:
        if work.survivors and len(work.plan.norm.levels) > 1 and work.plan.norm.levels[0].axes:
            work.survivors.index = np.empty(0, np.int64)
    reach = goal.reach_of_nothing(groups)
    return Run((0.0,) * len(works), True, reach, tuple(phases.done), (), start_ns, bytes_moved=0, retries=0)
