"""One run of the tree, written once over an executor: leaves up, the root here, leaves down; and what came of it."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, islice
from math import prod
from time import monotonic, perf_counter_ns
from typing import Any

from normtree.engine.arena import Arena
from normtree.engine.cancel import Cancel
from normtree.engine.chunks import cut_chunks, extent
from normtree.engine.executor import Executor, Leaf
from normtree.engine.long_fibres import LongFibres, part_excesses
from normtree.engine.plan import Plan
from normtree.engine.slate import Slate
from normtree.engine.stop import Stop
from normtree.engine.tensor import Tensor
from normtree.engine.timing import Span, Sweep
from normtree.engine.tree import Branch, Root, leaf_down, leaf_up, root
from normtree.engine.watermark import Watermark
from normtree_kernels.blocks import Block
from normtree_kernels.euclidean import water_levels
from normtree_kernels.goal import Goal

_POLL_S = 0.05


@dataclass(frozen=True)
class Work:
    """One tensor to project: where it is, where its projection goes, and how."""

    source: Tensor
    target: Tensor
    plan: Plan


@dataclass(frozen=True)
class Terms:
    """When a run has to end, and what it follows and is followed by.

    Args:
        end_ns: `time.monotonic_ns` after which its leaves stop.
        cancel: ends it before that.
        landed: how far the sources, one after the other, have arrived; None: they are there.
        done: told how far the targets, one after the other, are complete.
    """

    end_ns: int
    cancel: Cancel | None = None
    landed: Watermark | None = None
    done: Watermark | None = None


@dataclass(frozen=True)
class Phase:
    """One phase of a run: leaves that ran side by side, or the root.

    Args:
        sweep: what they did.
        spans: their work, as their own clocks saw it.
        stop_ns: `time.perf_counter_ns` when the driver had the last one's answer.
    """

    sweep: Sweep
    spans: tuple[Span, ...]
    stop_ns: int


@dataclass(frozen=True)
class Run:
    """One run of the tree, as one tensor saw it.

    Args:
        norm: the tensor's mixed norm; NaN or infinite where it holds such a value or its norm overflows, and then
            nothing was projected.
        radius: of the ball.
        phases: in the order they ran; with several tensors under one root, this one's leaves.
        steps: the root's sweeps of the upper levels.
        start_ns: `time.perf_counter_ns` when the engine was asked.
        bytes_moved: bytes of aggregates and radii that crossed between processes.
        retries: leaves that were run again because a worker was lost.
    """

    norm: float
    radius: float
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
        return sum(span.ms for phase in self.phases for span in phase.spans)

    @property
    def span_ms(self) -> float:
        """The critical path: the longest piece of each phase, one after the other."""
        return sum(max((span.ms for span in phase.spans), default=0.0) for phase in self.phases)


def run_tree(executor: Executor, slates: Arena, works: Sequence[Work], goal: Goal, terms: Terms) -> list[Run]:
    """Project tensors under one root; blocks until it is done and no leaf runs any more.

    Args:
        executor: runs the leaves.
        slates: where aggregates and radii get their shared memory.
        works: the tensors; several are projected onto one ball together.
        goal: what to reach; with several, all together.
        terms: when it must end, and what it follows.

    Raises:
        Stopped: the time has passed, or someone cancelled.
        WorkersLost: workers died again and again.
        Exception: what ``terms.landed`` failed with.
    """
    start_ns = perf_counter_ns()
    shapes = [work.plan.kept_shape for work in works]
    with ExitStack() as held:
        longs = [LongFibres.shapes(work.plan.shape, work.plan.norm) if work.plan.in_parts else [] for work in works]
        slate = held.enter_context(Slate(slates, [*shapes, *shapes, *chain(*longs)], terms.end_ns))
        if terms.cancel:
            held.enter_context(terms.cancel.watched_by(slate.stop.now))
        tensors = iter(slate.tensors)
        norms, radii = list(islice(tensors, len(works))), list(islice(tensors, len(works)))
        rest = [LongFibres(*islice(tensors, len(long))) if long else None for long in longs]
        branches = [
            Branch(work.plan.norm, work.source, work.target, v, u, long)
            for work, v, u, long in zip(works, norms, radii, rest, strict=True)
        ]
        return _Runner(executor, works, branches, slate.stop, terms).run(goal, start_ns)


class _Runner:
    """A run under way: its phases so far."""

    def __init__(
        self, executor: Executor, works: Sequence[Work], branches: Sequence[Branch], stop: Stop, terms: Terms
    ) -> None:
        self._executor = executor
        self._works = works
        self._branches = branches
        self._stop = stop
        self._terms = terms
        self._phases: list[tuple[Sweep, list[list[Span]], int]] = []
        self._retries = 0

    def run(self, goal: Goal, start_ns: int) -> list[Run]:
        ups = self._blocks([work.source for work in self._works] if self._terms.landed else None)
        self._phase("up", leaf_up, ups, self._when_landed(ups))
        roots = root(self._branches, goal)
        for work, branch, top in zip(self._works, self._branches, roots, strict=True):
            if work.plan.exact and 0.0 < top.radius < top.norm < math.inf:
                radii = water_levels(
                    work.source.array(), work.plan.norm, branch.norms.array(), top.radius, work.plan.workers
                )
                branch.radii.array(writable=True)[...] = radii
        self._phases.append(("root", [[top.span] for top in roots], perf_counter_ns()))
        if all(math.isfinite(top.norm) for top in roots):
            self._find_thresholds()
            downs = self._blocks([work.target for work in self._works] if self._terms.done else None)
            calls = ((self._stop, self._branches[owner], block) for owner, block in downs)
            self._phase("down", leaf_down, downs, calls, self._tell_done(downs))
        return [self._result(owner, top, start_ns) for owner, top in enumerate(roots)]

    def _find_thresholds(self) -> None:
        """Run rounds over the parts of l1 fibres, tensor after tensor, until their thresholds are found."""
        for owner, (work, branch) in enumerate(zip(self._works, self._branches, strict=True)):
            long, norm = branch.long, branch.norm
            if not long or norm.inner.norm != "l1":
                continue
            size = prod(work.plan.shape[axis] for axis in norm.inner.axes)
            blocks = [(owner, block) for block in work.plan.blocks]
            for _ in long.search(branch.norms, branch.radii, size, work.source.dtype):
                calls = ((self._stop, work.source, norm, block, long) for block in work.plan.blocks)
                self._phase("down", part_excesses, blocks, calls)

    def _phase(
        self,
        sweep: Sweep,
        leaf: Leaf[Span],
        blocks: Sequence[tuple[int, Block]],
        calls: Iterator[tuple[Any, ...]],
        on_answer: Callable[[int], None] | None = None,
    ) -> None:
        """Run one phase, and note whose leaf took how long."""
        workers = max(work.plan.workers for work in self._works)
        answers = self._executor.run(leaf, calls, workers=workers, stop=self._stop, on_answer=on_answer)
        spans: list[list[Span]] = [[] for _ in self._works]
        for (owner, _), span in zip(blocks, answers.values, strict=True):
            spans[owner].append(span)
        self._phases.append((sweep, spans, perf_counter_ns()))
        self._retries += answers.retries

    def _blocks(self, followed: Sequence[Tensor] | None) -> list[tuple[int, Block]]:
        """All tensors' blocks, each with the index of its tensor; cut finer where work follows tensors."""
        blocks: list[tuple[int, Block]] = []
        for owner, work in enumerate(self._works):
            own = cut_chunks(followed[owner], work.plan.blocks) if followed else work.plan.blocks
            blocks += [(owner, block) for block in own]
        return blocks

    def _when_landed(self, blocks: Sequence[tuple[int, Block]]) -> Iterator[tuple[Any, ...]]:
        """Yield calls up, each when its block has landed."""
        starts = self._starts()
        for owner, block in blocks:
            if self._terms.landed:
                wanted = starts[owner] + extent(self._works[owner].source, block)[1]
                while not self._terms.landed.wait(wanted, monotonic() + _POLL_S):
                    self._stop.check()
            yield self._stop, self._branches[owner], block

    def _tell_done(self, blocks: Sequence[tuple[int, Block]]) -> Callable[[int], None] | None:
        """Make what advances the watermark of the output: to where the first block begins that is not complete."""
        done = self._terms.done
        if not done:
            return None
        starts = self._starts()
        open_at = {
            index: starts[owner] + extent(self._works[owner].target, block)[0]
            for index, (owner, block) in enumerate(blocks)
        }

        def on_answer(index: int) -> None:
            del open_at[index]
            done.advance(min(open_at.values(), default=starts[-1]))

        return on_answer

    def _starts(self) -> list[int]:
        """Where each tensor begins when they are counted one after the other, and where the last one ends."""
        starts = [0]
        for work in self._works:
            starts.append(starts[-1] + work.plan.nbytes)
        return starts

    def _result(self, owner: int, top: Root, start_ns: int) -> Run:
        phases = tuple(Phase(sweep, tuple(spans[owner]), stop_ns) for sweep, spans, stop_ns in self._phases)
        branch = self._branches[owner]
        moved = 0 if self._executor.in_process else 2 * branch.norms.nbytes + branch.radii.nbytes
        if branch.long and not self._executor.in_process:
            rounds = sum(bool(phase.spans) for phase in phases if phase.sweep == "down") - 1
            moved += branch.long.sums.nbytes + rounds * (branch.long.sums.nbytes + branch.long.counts.nbytes)
        return Run(top.norm, top.radius, phases, top.steps, start_ns, moved, self._retries)
