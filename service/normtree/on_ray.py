"""Project a tensor that a Ray cluster holds already, in blocks: the tree goes to the blocks, and they stay.

Tasks run on the nodes that hold their blocks, and each result stays on the node that made it. What crosses the
network is the fibres' norms, on their way to the root in the caller's process, and their radii, on the way back.
"""

import math
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from threading import get_native_id
from time import monotonic, perf_counter_ns, time
from typing import Any

import numpy as np
import ray
from ray import ObjectRef
from ray.exceptions import (
    GetTimeoutError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    RayError,
    RayTaskError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from normtree.engine.phases import Phase
from normtree.engine.pieces import cut_pieces
from normtree.engine.plan import Plan
from normtree.engine.report import make_timing
from normtree.engine.run import Run
from normtree.engine.stop import Stopped
from normtree.engine.timing import Span, Sweep, Timing
from normtree.errors import (
    DeadlineExceeded,
    InvalidParameter,
    InvalidTensor,
    OutOfMemory,
    WorkersLost,
)
from normtree_kernels import sweep
from normtree_kernels.arguments import describe_bad
from normtree_kernels.blocks import Block
from normtree_kernels.dtypes import Array, Float64Array, check_tensor
from normtree_kernels.goal import Goal
from normtree_kernels.norms import Axes, MixedNorm
from normtree_kernels.tree import Crown, crown

_RETRIES = 3
_SETTLE_S = 5.0


@dataclass(frozen=True)
class Projection:
    """A projected tensor that a cluster holds.

    Args:
        blocks: references to its blocks, in the order they were given.
        timing: what it cost. The clocks of nodes are not one: each phase's pieces are shown from one start.
    """

    blocks: list[ObjectRef[Any]]
    timing: Timing


@dataclass(frozen=True)
class _Up:
    """What a leaf tells of its block: its shape and type, the norms of its fibres, and where and how long it worked."""

    shape: tuple[int, ...]
    dtype: str
    norms: Float64Array
    node: str
    span: Span


def project(
    blocks: Sequence[ObjectRef[Any]],
    norm: str,
    radius: float | None = None,
    *,
    axes: Axes | None = None,
    axis: int = 0,
    sparsity: float | None = None,
    groups: int | None = None,
    deadline_s: float | None = None,
) -> list[ObjectRef[Any]]:
    """Project a tensor held as blocks in the stores of a cluster; see `project_timed`, whose blocks it returns."""
    found = project_timed(
        blocks, norm, radius, axes=axes, axis=axis, sparsity=sparsity, groups=groups, deadline_s=deadline_s
    )
    return found.blocks


def project_timed(
    blocks: Sequence[ObjectRef[Any]],
    norm: str,
    radius: float | None = None,
    *,
    axes: Axes | None = None,
    axis: int = 0,
    sparsity: float | None = None,
    groups: int | None = None,
    deadline_s: float | None = None,
) -> Projection:
    """Project a tensor held as blocks in the object stores of a cluster, where they are; blocks until it is done.

    The result has the bits of `normtree_kernels.project` of the blocks concatenated, however many there are and
    wherever they lie. Ray is to be initialised, and normtree installed on its nodes.

    Args:
        blocks: references to NumPy arrays that are the tensor when concatenated along ``axis``. Not changed.
        norm: norms of the levels from outer to inner, such as ``"l1,linf"``.
        radius: radius of the ball, finite and >= 0.
        axes: the levels' axes, such as ``"1,0"``; default: one a level from axis 0, the last takes the rest.
        axis: the axis along which the blocks lie; one that the innermost level keeps.
        sparsity: instead of a radius, the share of the outermost groups that vanishes, 0 to 1.
        groups: instead of a radius, the number of outermost groups that survive.
        deadline_s: seconds it may take; None: as long as it takes.

    Raises:
        InvalidParameter, InvalidTensor: arguments or blocks that cannot be; an element that is NaN or infinite, by its
            block and its index there; a norm that overflows.
        DeadlineExceeded: it took longer; its tasks have stopped between pieces of work, by their nodes' clocks.
        WorkersLost: blocks, or the workers at them, were lost with their nodes, and could not be made again.
        OutOfMemory: an object store, or a node, is full.
    """
    start_ns = perf_counter_ns()
    tasks = _Tasks(blocks, math.inf if deadline_s is None else monotonic() + deadline_s)
    with _told(tasks, deadline_s):
        ups: list[_Up] = tasks.run(_leaf_up, [(norm, axes, axis) for _ in blocks])
        up_ns = perf_counter_ns()
        plan = _plan(ups, norm, axes, axis, _made(Goal, radius, sparsity, groups))
        norms = _joined(plan, ups)
        top = _top(plan, norms)
        if not math.isfinite(top.norm):
            raise InvalidTensor(tasks.describe_bad(ups, plan.norm), pointer="blocks")
        root_ns = perf_counter_ns()
        span = Span("root", 0, up_ns, root_ns, 2 * norms.nbytes, get_native_id())
        pairs = [(norms[here], top.radii[here]) for here in (b.index(plan.norm.kept_axes) for b in plan.blocks)]
        targets, downs = tasks.run_kept(_leaf_down, [(plan.norm, *map(np.ascontiguousarray, pair)) for pair in pairs])
    steps = tuple(Span(s.sweep, s.level, s.start_ns, s.stop_ns, s.nbytes, get_native_id()) for s in top.steps)
    phases = (
        _phase("up", [up.span for up in ups], start_ns, up_ns),
        Phase("root", (span,), root_ns),
        _phase("down", downs, root_ns, perf_counter_ns()),
    )
    run = Run((top.norm,), True, top.radius, phases, steps, start_ns, 3 * norms.nbytes, 0)
    timing = make_timing([plan], run, run.work_ms, "modelled")
    return Projection(targets, replace(timing, nodes=len({up.node for up in ups}), trace_id=uuid.uuid4().hex))


class _Tasks:
    """The tasks of one projection: each near its block.

    Args:
        blocks: what they work on.
        end_s: `time.monotonic` by which they must be done.
    """

    def __init__(self, blocks: Sequence[ObjectRef[Any]], end_s: float) -> None:
        self._blocks = list(blocks)
        self._end_s = end_s
        self._pending: list[Any] = []

    def run(self, leaf: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Run a leaf on each block, and return what all return."""
        self._pending = self._submit(leaf, arguments, 1)
        return self._wait(self._pending)

    def run_kept(
        self, leaf: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]
    ) -> tuple[list[ObjectRef[Any]], list[Any]]:
        """Run a leaf that makes a block on each block; return references to those, and what else the leaves return."""
        pairs = self._submit(leaf, arguments, 2)
        self._pending = [told for _, told in pairs]
        told = self._wait(self._pending)
        return [made for made, _ in pairs], told

    def describe_bad(self, ups: Sequence[_Up], norm: MixedNorm) -> str:
        """Say which element of which block cannot be; or that the norm overflows."""
        bad = [index for index, up in enumerate(ups) if not np.isfinite(up.norms).all()]
        if not bad:
            return f"blocks: their norm ({norm}) overflows float64; scale them down"
        (text,) = _Tasks([self._blocks[bad[0]]], self._end_s).run(_describe_bad, [(f"block {bad[0]}", norm)])
        return str(text)

    def settle(self) -> None:
        """Wait until no task runs any more, or a while: they stop by themselves once their time has passed."""
        ray.wait(self._pending, num_returns=len(self._pending), timeout=_SETTLE_S, fetch_local=False)

    def _submit(self, leaf: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], returns: int) -> list[Any]:
        until_s = time() + (self._end_s - monotonic())
        places = ray.experimental.get_object_locations(self._blocks)
        task: Any = ray.remote(num_cpus=1, max_retries=_RETRIES, num_returns=returns)(leaf)
        return [
            task.options(scheduling_strategy=_near(places[block].get("node_ids", ()))).remote(until_s, block, *own)
            for block, own in zip(self._blocks, arguments, strict=True)
        ]

    def _wait(self, tasks: list[Any]) -> list[Any]:
        left_s = None if math.isinf(self._end_s) else max(0.0, self._end_s - monotonic())
        return list(ray.get(tasks, timeout=left_s))


def _near(nodes: Sequence[str]) -> "NodeAffinitySchedulingStrategy | str":
    """Where a task is to run: at its block as long as that node lives. A small block travels with the task."""
    return NodeAffinitySchedulingStrategy(nodes[0], soft=True) if nodes else "DEFAULT"


def _leaf_up(until_s: float, block: Array, norm: str, axes: Axes | None, axis: int) -> _Up:
    """Aggregate one block."""
    start_ns = perf_counter_ns()
    block = _made(check_tensor, block, "blocks")
    mixed = _made(MixedNorm.parse, norm, axes, ndim=block.ndim)
    if not -block.ndim <= axis < block.ndim:
        raise InvalidParameter(f"axis: {axis} is out of range for blocks of {block.ndim} axes", pointer="axis")
    if axis % block.ndim not in mixed.kept_axes:
        raise InvalidParameter(
            f"axis: the blocks must hold whole fibres, but axis {axis} belongs to the innermost level of {mixed}",
            pointer="axis",
        )
    view = block.transpose(mixed.order)
    norms = np.empty([block.shape[kept] for kept in mixed.kept_axes])
    for piece in cut_pieces(block.shape, block.dtype.name, mixed, Block(None, 0, 1)):
        _check(until_s)
        norms[piece.kept] = sweep.up(mixed.inner.norm, view[piece.part], len(mixed.kept_axes))
    span = Span("up", len(mixed.levels) - 1, start_ns, perf_counter_ns(), block.nbytes, get_native_id())
    return _Up(block.shape, block.dtype.name, norms, ray.get_runtime_context().get_node_id(), span)


def _leaf_down(
    until_s: float, block: Array, mixed: MixedNorm, norms: Float64Array, radii: Float64Array
) -> tuple[Array, Span]:
    """Project one block, each fibre on its own radius."""
    start_ns = perf_counter_ns()
    made = np.empty(block.shape, block.dtype)
    source, target = block.transpose(mixed.order), made.transpose(mixed.order)
    for piece in cut_pieces(block.shape, block.dtype.name, mixed, Block(None, 0, 1)):
        _check(until_s)
        balls = norms[piece.kept], radii[piece.kept]
        sweep.down(mixed.inner.norm, source[piece.part], len(mixed.kept_axes), *balls, target[piece.part])
    nbytes = block.nbytes + made.nbytes
    return made, Span("down", len(mixed.levels) - 1, start_ns, perf_counter_ns(), nbytes, get_native_id())


def _check(until_s: float) -> None:
    """Go on only if there is time left, by this node's clock: who cancels a running task would have to reach it."""
    if time() >= until_s:
        raise Stopped


def _describe_bad(until_s: float, block: Array, name: str, norm: MixedNorm) -> str:
    return describe_bad(block, name, norm)


def _plan(ups: Sequence[_Up], norm: str, axes: Axes | None, axis: int, goal: Goal) -> Plan:
    """Put the blocks together in thought."""
    first = ups[0]
    axis %= len(first.shape)
    for index, up in enumerate(ups):
        alike = (*up.shape[:axis], first.shape[axis], *up.shape[axis + 1 :]) if len(up.shape) > axis else ()
        if alike != first.shape or up.dtype != first.dtype:
            raise InvalidTensor(
                f"blocks: wanted blocks like the first, {first.shape} {first.dtype}, along axis {axis}, "
                f"got {up.shape} {up.dtype} as block {index}",
                pointer="blocks",
            )
    ends = list(accumulate((up.shape[axis] for up in ups), initial=0))
    shape = (*first.shape[:axis], ends[-1], *first.shape[axis + 1 :])
    mixed = MixedNorm.parse(norm, axes, ndim=len(shape))
    _made(goal.check_fits, mixed, shape)
    blocks = tuple(Block(axis, start, stop) for start, stop in pairwise(ends))
    return Plan(shape, first.dtype, mixed, goal, False, "ray", len(blocks), "where the blocks are", blocks, {}, 0.0)


def _joined(plan: Plan, ups: Sequence[_Up]) -> Float64Array:
    norms = np.empty(plan.kept_shape)
    for block, up in zip(plan.blocks, ups, strict=True):
        norms[block.index(plan.norm.kept_axes)] = up.norms
    return norms


def _top(plan: Plan, norms: Float64Array) -> Crown:
    return crown(plan.norm, norms, plan.goal)


def _phase(sweep: Sweep, spans: Sequence[Span], start_ns: int, stop_ns: int) -> Phase:
    """A phase whose pieces all begin with it: the clocks of their nodes cannot be compared."""
    moved = (span._replace(start_ns=start_ns, stop_ns=start_ns + span.stop_ns - span.start_ns) for span in spans)
    return Phase(sweep, tuple(moved), stop_ns)


def _made(make: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call what checks its arguments, and tell which was wrong."""
    try:
        return make(*args, **kwargs)
    except (TypeError, ValueError) as error:
        pointer = str(error).partition(":")[0]
        kind = InvalidTensor if pointer == "blocks" else InvalidParameter
        raise kind(str(error), pointer=pointer) from error


@contextmanager
def _told(tasks: _Tasks, deadline_s: float | None) -> Iterator[None]:
    """Turn what goes wrong on the cluster into errors that tell why."""
    detail = f"deadline: the work took longer than {deadline_s} s and was cancelled"
    try:
        yield
    except GetTimeoutError:
        tasks.settle()
        raise DeadlineExceeded(detail, limit=deadline_s) from None
    except (ObjectStoreFullError, OutOfDiskError, OutOfMemoryError) as error:
        raise OutOfMemory(f"a node of the cluster is full: {type(error).__name__}", retry_after_s=1) from error
    except RayTaskError as error:
        if isinstance(error.cause, Stopped):
            raise DeadlineExceeded(detail, limit=deadline_s) from None
        if isinstance(error.cause, MemoryError):
            raise OutOfMemory("a leaf found no memory for its work", retry_after_s=1) from error
        if isinstance(error.cause, RayError):
            raise WorkersLost(f"a block could not be had: {type(error.cause).__name__}", retry_after_s=1) from error
        if isinstance(error.cause, InvalidParameter | InvalidTensor):
            raise error.cause from None
        raise
    except RayError as error:
        raise WorkersLost(f"blocks or their workers were lost: {type(error).__name__}", retry_after_s=1) from error
