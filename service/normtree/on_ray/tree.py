"""The tree over blocks that a cluster holds: leaves up where they are, the root here, leaves down where they are."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import prod
from time import perf_counter_ns
from typing import Any

import numpy as np
from ray import ObjectRef

from normtree.engine.phases import Phase
from normtree.engine.plan import Plan
from normtree.engine.run import Run
from normtree.engine.timing import Span, Sweep
from normtree.errors import InvalidTensor, refusal
from normtree.on_ray.ask import Ask, Bound, checked
from normtree.on_ray.leaves import (
    Up,
    leaf_active,
    leaf_down,
    leaf_down_part,
    leaf_excesses,
    leaf_not_finite,
    leaf_sums,
    leaf_up,
)
from normtree.on_ray.tasks import Leaf, Tasks, Told
from normtree_kernels import parts
from normtree_kernels.blocks import Block
from normtree_kernels.dtypes import Float64Array, Int64Array
from normtree_kernels.euclidean import solve
from normtree_kernels.norms import Level, MixedNorm
from normtree_kernels.refusals import Refusal
from normtree_kernels.tree import Crown, crown

_ROOT_ROW = 1  # of the trace; ids of threads on several nodes may be the same


@dataclass(frozen=True)
class Grown:
    """A tree that has run.

    Args:
        plan: of the blocks put together.
        run: its clocks.
        blocks: references to the results.
        nodes: how many took part.
    """

    plan: Plan
    run: Run
    blocks: list[ObjectRef[Any]]
    nodes: int


class Tree:
    """One projection.

    Args:
        tasks: on the blocks.
        ask: what is wanted of them.
    """

    def __init__(self, tasks: Tasks, ask: Ask) -> None:
        """Begin the clock."""
        self._tasks = tasks
        self._ask = ask
        self._start_ns = self._since_ns = perf_counter_ns()
        self._phases: list[Phase] = []
        self._rows: dict[tuple[str, int], int] = {}
        self._nodes: set[str] = set()
        self._moved = self._retries = 0

    def grow(self) -> Grown:
        """Run it.

        Raises:
            InvalidParameter, InvalidTensor: arguments or blocks that cannot be.
        """
        ups: list[Up] = self._run("up", leaf_up, [(self._ask, index == 0) for index in range(self._ask.count)])
        plan = _plan(ups, self._ask)
        bound = self._ask.bind(len(plan.shape))
        norms = self._joined(plan, bound, [up.norms for up in ups], plan.norm.inner.norm)
        top = crown(plan.norm, norms, plan.goal)
        if not math.isfinite(top.norm):
            raise self._not_finite(ups, plan.norm)
        radii = top.radii
        if bound.own and not top.inside and top.radius > 0.0:
            radii = self._levels(plan, bound, norms, top)
        self._note_root(2 * norms.nbytes)
        made = self._down(plan, bound, norms, radii, ups)
        steps = tuple(Span(s.sweep, s.level, s.start_ns, s.stop_ns, s.nbytes, _ROOT_ROW) for s in top.steps)
        run = Run((top.norm,), True, top.reach, tuple(self._phases), steps, self._start_ns, self._moved, self._retries)
        return Grown(plan, run, made, len(self._nodes))

    def _levels(self, plan: Plan, bound: Bound, norms: Float64Array, top: Crown) -> Float64Array:
        """Find the radii of the exact projection: Newton's steps here, each on one reading of the blocks."""
        mixed, chunked = plan.norm, bound.cut != "fibres"
        summed = MixedNorm((mixed.levels[0], Level("l1", mixed.inner.axes)))
        self._note_root(norms.nbytes)
        told = self._run("up", leaf_sums, [(summed, chunked)] * len(plan.blocks))
        sums = self._joined(plan, bound, told, "l1")

        def active(mu: Float64Array) -> tuple[Float64Array, Int64Array]:
            levels = mu.reshape(norms.shape)
            self._note_root(levels.nbytes)
            found = self._run("up", leaf_active, [(mixed, chunked, *own) for own in self._given(plan, bound, levels)])
            above = self._joined(plan, bound, [sums for sums, _ in found], "l1")
            if chunked:
                numbers = np.concatenate([counts for _, counts in found]).sum(axis=0)
            else:
                numbers = self._joined(plan, bound, [counts for _, counts in found], "l1").reshape(-1)
            return above.reshape(-1), numbers.astype(np.int64)

        try:
            return solve(norms.reshape(-1), sums.reshape(-1), top.radius, active).reshape(norms.shape)
        except Refusal as error:
            raise refusal(error.about("blocks"), InvalidTensor) from error

    def _down(
        self, plan: Plan, bound: Bound, norms: Float64Array, radii: Float64Array, ups: Sequence[Up]
    ) -> list[ObjectRef[Any]]:
        """Make the results where the blocks are."""
        if bound.cut != "chunks" or norms.size == 0:
            return self._make(leaf_down, plan, self._given(plan, bound, norms, radii))
        if plan.norm.inner.norm == "l1":
            return self._make(leaf_down_part, plan, self._thresholds(plan, bound, norms, radii, ups[0].sample))
        return self._make(leaf_down_part, plan, self._given(plan, bound, norms, radii))

    def _thresholds(
        self, plan: Plan, bound: Bound, norms: Float64Array, radii: Float64Array, sample: Float64Array
    ) -> list[tuple[Any, ...]]:
        """Find the thresholds of l1 fibres whose parts are in several blocks, in rounds over all of them."""
        size = prod(plan.shape[axis] for axis in plan.norm.inner.axes)
        search = parts.Thresholds(norms.reshape(-1), radii.reshape(-1), sample, size, np.dtype(plan.dtype))
        while search.asked:
            given = self._given(plan, bound, *search.asked)
            self._note_root(2 * norms.nbytes)
            found = self._run("down", leaf_excesses, [(plan.norm, *own) for own in given])
            search.answer(*(np.concatenate(each) for each in zip(*found, strict=True)))
        given = self._given(plan, bound, *search.found)
        self._note_root(2 * norms.nbytes)
        return given

    def _given(self, plan: Plan, bound: Bound, *arrays: Float64Array) -> list[tuple[Any, ...]]:
        """What each block is told of its fibres: its share of arrays of the kept axes, or all of them."""
        if bound.cut != "fibres":
            self._moved += len(plan.blocks) * sum(array.nbytes for array in arrays)
            shared = tuple(self._tasks.share(np.ascontiguousarray(array)) for array in arrays)
            return [shared] * len(plan.blocks)
        self._moved += sum(array.nbytes for array in arrays)
        here = [block.index(plan.norm.kept_axes) for block in plan.blocks]
        return [tuple(np.ascontiguousarray(array[index]) for array in arrays) for index in here]

    def _joined(self, plan: Plan, bound: Bound, told: Sequence[Float64Array], norm: str) -> Float64Array:
        """Norms of all fibres, from those that blocks told."""
        self._moved += sum(each.nbytes for each in told)
        if bound.cut == "fibres":
            norms = np.empty(plan.kept_shape)
            for block, own in zip(plan.blocks, told, strict=True):
                norms[block.index(plan.norm.kept_axes)] = own
            return norms
        if prod(plan.shape) == 0:
            return np.zeros(plan.kept_shape)
        if bound.cut == "maxima" and norm == "linf":
            return parts.fold(norm, np.stack([own.reshape(-1) for own in told])).reshape(plan.kept_shape)
        return parts.fold(norm, np.concatenate(told)).reshape(plan.kept_shape)

    def _not_finite(self, ups: Sequence[Up], norm: MixedNorm) -> InvalidTensor:
        """Say which element of which block cannot be; or that the norm overflows."""
        bad = [index for index, up in enumerate(ups) if not np.isfinite(up.norms).all()]
        if not bad:
            detail = f"blocks: their norm ({norm}) overflows float64; scale them down"
            return InvalidTensor(detail, pointer="blocks", limit="a finite norm", got=math.inf)
        ((error,), _) = self._tasks.only(bad[0]).run(leaf_not_finite, [(f"block {bad[0]}", norm)])
        return refusal(error, InvalidTensor, "blocks")

    def _run(self, sweep: Sweep, leaf: Leaf, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        values, told = self._tasks.run(leaf, arguments)
        self._note(sweep, told)
        return values

    def _make(self, leaf: Leaf, plan: Plan, given: Sequence[tuple[Any, ...]]) -> list[ObjectRef[Any]]:
        made, told = self._tasks.run_kept(leaf, [(plan.norm, *own) for own in given])
        self._note("down", told)
        return made

    def _note(self, sweep: Sweep, told: Sequence[Told]) -> None:
        """Note a phase. The clocks of nodes are not one: each node's first piece is shown from the phase's start."""
        first: dict[str, int] = {}
        for each in told:
            first[each.node] = min(each.span.start_ns, first.get(each.node, each.span.start_ns))
        spans = []
        for each in told:
            row = self._rows.setdefault((each.node, each.span.worker), _ROOT_ROW + 1 + len(self._rows))
            late_ns = self._since_ns - first[each.node]
            start_ns, stop_ns = each.span.start_ns + late_ns, each.span.stop_ns + late_ns
            spans.append(each.span._replace(start_ns=start_ns, stop_ns=stop_ns, worker=row))
            self._nodes.add(each.node)
            self._retries += each.retries
        self._since_ns = perf_counter_ns()
        self._phases.append(Phase(sweep, tuple(spans), self._since_ns))

    def _note_root(self, nbytes: int) -> None:
        stop_ns = perf_counter_ns()
        span = Span("root", 0, self._since_ns, stop_ns, nbytes, _ROOT_ROW)
        self._phases.append(Phase("root", (span,), stop_ns))
        self._since_ns = stop_ns


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
    ends = list(accumulate((up.shape[axis] for up in ups), initial=0))
    shape = (*first.shape[:axis], ends[-1], *first.shape[axis + 1 :])
    checked(ask.goal.check_fits, bound.mixed, shape)
    bound.check_starts(shape, ends[:-1])
    blocks = tuple(Block(axis, start, stop) for start, stop in pairwise(ends))
    return Plan(
        shape,
        first.dtype,
        bound.mixed,
        ask.goal,
        bound.own,
        "ray",
        len(blocks),
        "where the blocks are",
        blocks,
        {},
        0.0,
    )
