"""One run of the tree, written once over an executor: leaves up, the root here, leaves down; and what came of it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from math import prod
from time import monotonic, perf_counter_ns
from typing import Any

from normtree.engine.arena import Arena
from normtree.engine.cancel import Cancel
from normtree.engine.chunks import cut_chunks, extent
from normtree.engine.exact import find_levels
from normtree.engine.executor import Executor
from normtree.engine.long_fibres import LongFibres, part_excesses
from normtree.engine.phases import Phase, Phases
from normtree.engine.plan import Plan
from normtree.engine.slate import Slate
from normtree.engine.survivors import Groups, Survivors, cut_groups, find_survivors
from normtree.engine.tensor import Tensor
from normtree.engine.timing import Span
from normtree.engine.tree import Branch, Root, leaf_down, leaf_up, root
from normtree.engine.watermark import Watermark
from normtree_kernels.blocks import Block, split
from normtree_kernels.goal import Goal, Reach

_POLL_S = 0.05


@dataclass(frozen=True)
class Work:
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


def run_tree(executor: Executor, slates: Arena, works: Sequence[Work], goal: Goal, terms: Terms) -> Run:
    """Project tensors under one root; blocks until it is done and no leaf runs any more.

    Args:
        executor: runs the leaves.
        slates: where aggregates and radii get their shared memory.
        works: the tensors; several are projected onto one ball together, none of them exactly.
        goal: what to reach; with several, all together.
        terms: when it must end, and what it follows.

    Raises:
        Stopped: the time has passed, or someone cancelled.
        InvalidTensor: an exact projection's sums overflow.
        ArenaFull: no room for the slate in time.
        WorkersLost: workers died again and again.
        Exception: what ``terms.landed`` failed with.
    """
    start_ns = perf_counter_ns()
    shapes = [shape for work in works for shape in _shapes(work.plan)]
    with ExitStack() as held:
        slate = held.enter_context(Slate(slates, shapes, terms.end_ns))
        if terms.cancel:
            held.enter_context(terms.cancel.watched_by(slate.stop.now))
        phases = Phases(executor, max(work.plan.workers for work in works), slate.stop)
        run = _Run(phases, works, slate.tensors, terms)
        top = run.go(goal)
        moved = 0 if executor.in_process else run.bytes_shared
        done = tuple(phases.done)
        return Run(top.norms, top.finite, top.reach, done, top.steps, start_ns, moved, phases.retries)


def _shapes(plan: Plan) -> list[tuple[int, ...]]:
    """What a tensor needs on the slate: norms and radii, sums and counts of an exact projection, parts' own."""
    kept = [plan.kept_shape] * (4 if plan.exact else 2)
    return [*kept, *(LongFibres.shapes(plan.shape, plan.norm) if plan.in_parts else [])]


class _Run:
    """A run under way."""

    def __init__(self, phases: Phases, works: Sequence[Work], tensors: Sequence[Tensor], terms: Terms) -> None:
        self._phases = phases
        self._works = works
        self._terms = terms
        left = iter(tensors)
        self._branches: list[Branch] = []
        self._spare: list[tuple[Tensor, ...]] = []
        for work in works:
            norms, radii = islice(left, 2)
            self._spare.append((next(left), replace(next(left), dtype="int64")) if work.plan.exact else ())
            long = LongFibres(*islice(left, 6)) if work.plan.in_parts else None
            self._branches.append(Branch(work.plan.norm, work.source, work.target, norms, radii, long))

    @property
    def bytes_shared(self) -> int:
        """Bytes of norms that went up, of norms and radii that went down, and of what rounds told beside."""
        shared = sum(2 * branch.norms.nbytes + branch.radii.nbytes for branch in self._branches)
        rounds = max(0, sum(phase.sweep == "down" for phase in self._phases.done) - 1)
        for branch in self._branches:
            if branch.long:
                shared += branch.long.sums.nbytes + rounds * (branch.long.sums.nbytes + branch.long.counts.nbytes)
        return shared

    def go(self, goal: Goal) -> Root:
        """Run all phases."""
        ups = self._blocks([work.source for work in self._works] if self._terms.landed else None)
        self._phases.run("up", leaf_up, self._when_landed(ups))
        top = root(self._branches, goal)
        self._phases.note_root(top.span)
        if not top.finite:
            return top
        if not top.inside and top.reach.radius > 0.0:
            self._find_levels(top.reach.radius)
        self._find_thresholds()
        self._project()
        return top

    def _project(self) -> None:
        """Run the leaves down, over blocks, or over the survivors of tensors of which only they are wanted."""
        downs = self._blocks([work.target for work in self._works] if self._terms.done else None)
        groups = self._survivors()
        parts: list[tuple[int, Block | Groups]] = [(owner, block) for owner, block in downs if owner not in groups]
        parts += [(owner, some) for owner, cut in groups.items() for some in cut]
        calls = ((self._phases.stop, self._branches[owner], part) for owner, part in parts)
        self._phases.run("down", leaf_down, calls, self._tell_done(downs))

    def _survivors(self) -> dict[int, list[Groups]]:
        """Tell who asked for survivors only which they are, and cut them for the leaves; by the tensor's index."""
        groups = {}
        for owner, (work, branch) in enumerate(zip(self._works, self._branches, strict=True)):
            if work.survivors and not (branch.long or self._terms.done):
                length = prod(work.plan.shape[axis] for axis in branch.norm.inner.axes)
                balls = branch.norms.array(), branch.radii.array()
                work.survivors.index = find_survivors(branch.norm, *balls, length, work.source.dtype)
                if work.survivors.index is not None:
                    groups[owner] = cut_groups(len(work.survivors.index), len(work.plan.blocks))
        return groups

    def _find_levels(self, radius: float) -> None:
        """Replace the radii by those of the exact projection, where that is wanted."""
        for work, branch, spare in zip(self._works, self._branches, self._spare, strict=True):
            if spare:
                sums, counts = spare
                blocks = split(work.plan.shape, work.plan.norm, work.plan.workers)  # its rounds want whole fibres
                find_levels(self._phases, replace(branch, long=None), blocks, radius, sums, counts)

    def _find_thresholds(self) -> None:
        """Run rounds over the parts of l1 fibres, tensor after tensor, until their thresholds are found."""
        for work, branch in zip(self._works, self._branches, strict=True):
            long, norm = branch.long, branch.norm
            if not long or norm.inner.norm != "l1":
                continue
            size = prod(work.plan.shape[axis] for axis in norm.inner.axes)
            for _ in long.search(branch.norms, branch.radii, size, work.source.dtype):
                calls = [(self._phases.stop, work.source, norm, block, long) for block in work.plan.blocks]
                self._phases.run("down", part_excesses, calls)

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
                    self._phases.stop.check()
            yield self._phases.stop, self._branches[owner], block

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
