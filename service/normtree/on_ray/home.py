"""The home of tensors that a cluster holds in blocks: each is asked, and projected, where it is; the root is here."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import prod
from typing import Any

import numpy as np
from ray import ObjectRef

from normtree.engine.leaves import sweep_of
from normtree.engine.plan import Plan
from normtree.engine.run import Run
from normtree.engine.timing.schema import Span, Timing
from normtree.engine.timing_of_run import make_timing
from normtree.errors import InvalidTensor, refusal
from normtree.on_ray.ask import Ask, checked
from normtree.on_ray.clocks import ROOT_ROW, Clocks
from normtree.on_ray.leaves import Extent, Up, leaf_ask, leaf_not_finite, leaf_project, leaf_up
from normtree.on_ray.tasks import Tasks
from normtree_kernels.dtypes import Float64Array
from normtree_kernels.parts.gathered import Gathered
from normtree_kernels.parts.part import fold
from normtree_kernels.parts.questions import Answer, Norms, Question
from normtree_kernels.refusals import Refusal
from normtree_kernels.tree import projection
from normtree_kernels.tree.blocks import Block
from normtree_kernels.tree.goal import Reach
from normtree_kernels.tree.projection import ProjectionProblem


@dataclass(frozen=True)
class Projection:
    """A projected tensor that a cluster holds.

    Args:
        blocks: references to its blocks, in the order they were given.
        timing: what it cost. The clocks of nodes are not one: each phase's pieces are shown from one start. Its serial
            reference is the sum of all pieces.
    """

    blocks: list[ObjectRef[Any]]
    timing: Timing


class Home:
    """A tensor that a cluster holds.

    Args:
        tasks: on its blocks.
        ask: what is wanted of them.

    Raises:
        InvalidTensor: the blocks do not fit each other.
        InvalidParameter: arguments do not fit them.
    """

    def __init__(self, tasks: Tasks, ask: Ask) -> None:
        """Look at the blocks, and aggregate them."""
        self._tasks = tasks
        self._clocks = Clocks()
        ups, told = tasks.run(leaf_up, dict.fromkeys(range(ask.count), (ask,)))
        self._clocks.note("up", told)
        self._plan = plan = _plan(ups, ask)
        self._bound = bound = ask.bind(len(plan.shape))
        self._whole = prod(plan.shape[axis] for axis in plan.norm.inner.axes)
        step = self._whole // max(1, plan.shape[bound.axis]) if bound.across else 0
        self._extents = [Extent(plan.norm, bound.in_chunks, self._whole, b.start * step) for b in plan.blocks]
        counts = [extent.slots(up.shape) for extent, up in zip(self._extents, ups, strict=True)]
        edges = list(accumulate(counts, initial=0))
        self._slots = [slice(*each) for each in (pairwise(edges) if bound.across else ((0, n) for n in counts))]
        self._held = [index for index, count in enumerate(counts) if count]  # blocks with elements
        self._bad = [i for i in self._held if not all(np.isfinite(each).all() for each in ups[i].norms)]
        self._answered = 0  # bytes that blocks told last
        self._norms: Float64Array | None = None
        if self._held and (self._whole > 1 or not bound.across):  # else blocks took it for a part of a longer fibre
            norm = plan.norm.inner.norm
            self._norms = fold(norm, *self._gather(Norms(norm), {i: ups[i].norms for i in self._held}))

    def project(self) -> Projection:
        """Project the tensor.

        Raises:
            InvalidTensor: an element is not finite, or the norm, or a sum that the exact projection needs, overflows.
        """
        plan = self._plan
        if not self._held:  # its fibres may be more than memory holds
            groups = prod(plan.shape[axis] for axis in plan.norm.levels[0].axes)
            return self._make((), 0.0, plan.goal.reach_of_nothing(groups))
        bound, dtype = self._bound, np.dtype(plan.dtype)
        problem = ProjectionProblem(plan.norm, self._whole, dtype, plan.goal, own=bound.own, in_chunks=bound.in_chunks)
        try:
            found = projection.drive(projection.project(problem, self._norms), self.ask)
        except Refusal as error:
            raise refusal(error.about("blocks"), InvalidTensor) from error
        if not found.top.is_finite:
            raise self._not_finite()
        steps = [Span(s.sweep, s.level, s.start_ns, s.stop_ns, s.nbytes, ROOT_ROW) for s in found.top.steps]
        return self._make(found.balls, found.top.norm, found.top.reach, steps)

    def ask(self, question: Question) -> Answer:
        """Put a question to all blocks that it concerns."""
        asked = [index for index in self._held if question.concerns(self._extents[index].start)]
        given, plain = self._given(question.values, asked), question.with_values([])
        self._clocks.note_root(self._answered)
        answers, told = self._tasks.run(leaf_ask, {i: (self._extents[i], plain, *given[i]) for i in asked})
        self._clocks.note(sweep_of(question), told)
        return self._gather(question, dict(zip(asked, answers, strict=True)))

    def _make(self, balls: Sequence[Float64Array], norm: float, reach: Reach, steps: Sequence[Span] = ()) -> Projection:
        """Make the results where the blocks are."""
        clocks, phases = self._clocks, self._clocks.phases
        given = self._given(balls, range(len(self._extents)))
        clocks.note_root(self._answered)
        made, told = self._tasks.run_kept(leaf_project, {i: (self._extents[i], *own) for i, own in given.items()})
        clocks.note("down", told)
        done, start_ns = tuple(phases.done), clocks.start_ns
        run = Run((norm,), True, reach, done, tuple(steps), start_ns, phases.moved, phases.retries)
        timing = make_timing([self._plan], run, run.work_ms, "summed")
        return Projection(made, timing._replace(nodes=len(clocks.nodes)))

    def _given(self, arrays: Sequence[Float64Array], blocks: Iterable[int]) -> dict[int, tuple[Any, ...]]:
        """What each of some blocks is told of its fibres: its share of arrays of the kept axes, or all of them."""
        given: dict[int, tuple[Any, ...]] = {i: tuple(array[self._fibres(i)] for array in arrays) for i in blocks}
        self._clocks.phases.moved += sum(array.nbytes for own in given.values() for array in own)
        return dict.fromkeys(given, tuple(map(self._tasks.share, arrays))) if self._bound.across else given

    def _gather(self, question: Question, answers: Mapping[int, Answer]) -> Answer:
        """Put the answers of blocks together."""
        gathered = Gathered.of_shape(question, max(slots.stop for slots in self._slots), self._plan.kept_shape)
        for index, answer in answers.items():
            gathered.put(self._slots[index], self._fibres(index), answer)
        self._answered = sum(array.nbytes for answer in answers.values() for array in answer)
        self._clocks.phases.moved += self._answered
        return gathered.whole

    def _fibres(self, index: int) -> Any:
        """Where a block's fibres are in an array of the kept axes."""
        return self._plan.blocks[index].index(self._plan.norm.kept_axes)

    def _not_finite(self) -> InvalidTensor:
        """Say which element of which block cannot be; or that the norm overflows."""
        norm = self._plan.norm
        if not self._bad:
            detail = f"blocks: their norm ({norm}) overflows float64; scale them down"
            return InvalidTensor(detail, pointer="blocks", limit="a finite norm", got=math.inf)
        bad = self._bad[0]
        ((error,), _) = self._tasks.run(leaf_not_finite, {bad: (f"block {bad}", norm)})
        return refusal(error, InvalidTensor, "blocks")


def _plan(ups: Sequence[Up], ask: Ask) -> Plan:
    """Put the blocks together in thought.

    Raises:
        InvalidTensor: they do not fit each other.
        InvalidParameter: the goal cannot be reached, or they cut fibres where they must not.
    """
    first = ups[0]
    bound = ask.bind(len(first.shape))
    axis = bound.axis
    for index, up in enumerate(ups):
        alike = (*up.shape[:axis], first.shape[axis], *up.shape[axis + 1 :]) if len(up.shape) > axis else ()
        if alike != first.shape or up.dtype != first.dtype:
            wanted = f"blocks like the first, {first.shape} {first.dtype}, along axis {axis}"
            got = f"{up.shape} {up.dtype} as block {index}"
            raise InvalidTensor(f"blocks: wanted {wanted}, got {got}", pointer="blocks", limit=wanted, got=got)
    edges = list(accumulate((up.shape[axis] for up in ups), initial=0))
    shape = (*first.shape[:axis], edges[-1], *first.shape[axis + 1 :])
    checked(ask.goal.check_fits, bound.mixed, shape)
    bound.check_starts(shape, edges[:-1])
    blocks = tuple(Block(axis, start, stop) for start, stop in pairwise(edges))
    where = "where the blocks are"
    return Plan(shape, first.dtype, bound.mixed, ask.goal, bound.own, "ray", len(blocks), where, blocks, {}, 0.0)
