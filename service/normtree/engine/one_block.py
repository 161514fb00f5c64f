"""The run of a tensor of one small block, in this thread; and of tensors without any elements.

The same kernels in the same order as a tree of leaves, and so the same bits. But such a tensor is projected in some
tens of microseconds: a slate in shared memory, phases and their calls would each take as long.
"""

import math
from collections.abc import Sequence
from math import prod
from threading import get_native_id
from time import monotonic_ns, perf_counter_ns

import numpy as np

from normtree.engine.executor import Executor
from normtree.engine.phases import Phase
from normtree.engine.run import Run, Terms, Work
from normtree.engine.stop import Stopped
from normtree.engine.timing import Span
from normtree.engine.tree import find_crown
from normtree_kernels.goal import Goal, Reach
from normtree_kernels.sweep import down, up

LIMIT_BYTES = 1 << 18


def is_one_block(executor: Executor, works: Sequence[Work], terms: Terms) -> bool:
    """Tell whether a run is of one small tensor in one block: whole, followed by nobody, asked once."""
    plan = works[0].plan
    return (
        len(works) == 1
        and executor.in_process
        and len(plan.blocks) == 1
        and plan.nbytes <= LIMIT_BYTES
        and not (plan.exact or plan.in_parts or works[0].survivors or terms.landed or terms.done)
    )


def run_one_block(work: Work, goal: Goal, terms: Terms) -> Run:
    """Project one small tensor; `is_one_block` tells whether it is one.

    Args:
        work: the tensor.
        goal: what to reach.
        terms: when it must end; it is looked at before the leaf goes up and before it goes down.

    Raises:
        Stopped: the time has passed, or someone cancelled.
    """
    start_ns = perf_counter_ns()
    _check(terms)
    norm, worker = work.plan.norm, get_native_id()
    inner, kept = norm.inner.norm, len(norm.kept_axes)
    y = work.source.array().transpose(norm.order)
    begun_ns = perf_counter_ns()
    v = up(inner, y, kept)
    up_ns = perf_counter_ns()
    top = find_crown(norm, v, goal, work.source)
    finite = math.isfinite(top.norm)  # then so is every aggregate, which is no larger, and every radius
    root_ns = perf_counter_ns()
    phases = [
        Phase("up", (Span("up", len(norm.levels) - 1, begun_ns, up_ns, y.nbytes, worker),), up_ns),
        Phase("root", (Span("root", 0, up_ns, root_ns, 2 * v.nbytes, worker),), root_ns),
    ]
    if finite:
        _check(terms)
        x = work.target.array(writable=True).transpose(norm.order)
        down(inner, y, kept, v, top.radii, x)
        down_ns = perf_counter_ns()
        span = Span("down", len(norm.levels) - 1, root_ns, down_ns, y.nbytes + x.nbytes, worker)
        phases.append(Phase("down", (span,), down_ns))
    steps = tuple(Span(s.sweep, s.level, s.start_ns, s.stop_ns, s.nbytes, worker) for s in top.steps)
    return Run((top.norm,), finite, top.reach, tuple(phases), steps, start_ns, bytes_moved=0, retries=0)


def run_empty(works: Sequence[Work], goal: Goal) -> Run:
    """Project tensors without elements: nothing is read or written, and no memory taken, however many their groups."""
    start_ns = perf_counter_ns()
    groups = sum(prod(work.plan.shape[axis] for axis in work.plan.norm.levels[0].axes) for work in works)
    asked = None if goal.radius is not None else goal.survivors(groups)
    phase = Phase("root", (Span("root", 0, start_ns, perf_counter_ns(), 0, get_native_id()),), perf_counter_ns())
    reach = Reach(goal.radius or 0.0, asked, asked)
    for work in works:
        if work.survivors and len(work.plan.norm.levels) > 1 and work.plan.norm.levels[0].axes:
            work.survivors.index = np.empty(0, np.int64)
    return Run((0.0,) * len(works), True, reach, (phase,), (), start_ns, bytes_moved=0, retries=0)


def _check(terms: Terms) -> None:
    if monotonic_ns() >= terms.end_ns or (terms.cancel and terms.cancel.is_set):
        raise Stopped
