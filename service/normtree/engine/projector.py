"""The projector: arena, machine profile and engines behind one door, for the service, the command line and jobs."""

import math
import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from time import monotonic_ns, perf_counter
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from normtree.engine.cancel import Cancel
from normtree.engine.common_root import check_together
from normtree.engine.executor import Executor
from normtree.engine.kernels import ALL, FIRST, SWEEPS, prepare, prepare_first
from normtree.engine.memory.arena import Arena, Segment
from normtree.engine.memory.stop import Stopped
from normtree.engine.memory.tensor import Tensor, aligned, attach
from normtree.engine.plan import RAY_IS_AWAY, Plan, make_plan
from normtree.engine.profile.machine import this_machine
from normtree.engine.profile.machine_profile import Engine, MachineProfile
from normtree.engine.profile.measure import Request, measure
from normtree.engine.profile.store import load_profile, save_profile
from normtree.engine.profile.usual_machine import usual_profile
from normtree.engine.run import Run, TensorRun, Terms, run_tree
from normtree.engine.survivors import Survivors
from normtree.engine.timing.schema import Timing
from normtree.engine.timing_of_run import make_timing
from normtree.engine.warm_up import WarmUp
from normtree.engine.workers.ray_workers import RayExecutor
from normtree.engine.workers.threads import InlineExecutor
from normtree.errors import (
    Cancelled,
    DeadlineExceeded,
    EngineUnavailable,
    InvalidParameter,
    InvalidTensor,
    OutOfMemory,
    WorkersLost,
    refusal,
)
from normtree.settings import Settings
from normtree.splits import parse_split
from normtree_kernels.arguments import not_finite
from normtree_kernels.dtypes import check_dtype
from normtree_kernels.norms.mixed_norm import MixedNorm
from normtree_kernels.refusals import Refusal
from normtree_kernels.tree.goal import Goal

Baseline = Literal["none", "measure"]
Warmth = Literal["all", "first", "none"]
BASELINES: tuple[Baseline, ...] = ("none", "measure")
_PROBES = 8
_PLANS_KEPT = 256
_LEAST_SLATES_BYTES = 1 << 24


class Projector:
    """Plans and runs projections of tensors that lie in its arena.

    Attributes:
        arena: where tensors live.
        slates: where the aggregates and radii of runs live.
        inline: the executor on threads.
        profile: of this machine, or of a usual one until this one is measured.
        workers: leaves that can run at once.
        ray: the executor on Ray; None when it is off.
    """

    def __init__(self, settings: Settings, arena: Arena, ray_executor: RayExecutor | None) -> None:
        """Find the machine's profile; `start` makes what belongs to it."""
        self._settings = settings
        self.ray = ray_executor
        self.workers = settings.workers
        self.arena = arena
        self.slates = Arena(max(_LEAST_SLATES_BYTES, settings.arena_bytes // 2), own=ray_executor is None)
        self.inline = InlineExecutor(settings.workers)
        self._plan = lru_cache(_PLANS_KEPT, typed=True)(self._make_plan)
        engines, machine = self._engines, this_machine()
        kept = load_profile(machine, settings.workers, engines)
        self.profile = kept or usual_profile(machine, settings.workers, engines)
        self._planned_by = self.profile
        self._under_way: set[int] = set()
        self._warm_up: WarmUp | None = None
        self.ready = True

    @classmethod
    def start(cls, settings: Settings, *, warm: Warmth = "all") -> Self:
        """Compile or load kernels, touch memory, start or join Ray unless it is off, and measure the machine.

        Args:
            settings: all there is to set.
            warm: which kernels are there when it returns. ``all``, and the machine is measured where it has to be.
                ``first``: those that most requests need; where others have to be compiled, that is done in the
                background, and the machine is measured after it. ``none``: each is compiled or loaded when it is first
                called, and the machine is not measured.

        Raises:
            EngineUnavailable: Ray cannot be started or reached.
            BodyTooLarge, ArenaFull: the memory to be touched is more than the arena or the node has.
        """
        missing = []
        if warm == "all":  # first alone: the workers then find machine code on disk, and none of them writes it
            prepare(ALL)
        elif warm == "first":
            missing = prepare_first()
        elif not settings.inline_only:
            prepare(FIRST)
        projector = cls._start(settings)
        try:
            if missing:
                projector._warm_up = WarmUp(missing, lambda: bool(projector._under_way), projector.measure_if_due)
            elif warm != "none":
                projector.measure_if_due()
        except BaseException:
            projector.close()
            raise
        return projector

    @classmethod
    def _start(cls, settings: Settings) -> Self:
        with ExitStack() as held:
            arena = Arena(settings.arena_bytes, own=settings.inline_only)
            held.callback(arena.close)
            segments = arena.touch(settings.arena_touched_bytes)
            for segment in segments:
                attach(segment, populate=True)
            if settings.inline_only:
                ray = None
            else:
                ray = RayExecutor(settings.workers, settings.ray_address, segments, settings.ray_restart_s)
                held.callback(ray.close)
            started = cls(settings, arena, ray)
            held.pop_all()
            return started

    def close(self) -> None:
        """Stop: not ready any more, segments removed, Ray left or ended."""
        self.ready = False
        if self._warm_up:
            self._warm_up.close()
        self.inline.close()
        if self.ray:
            self.ray.close()
        self.arena.close()
        self.slates.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def workers_ready(self) -> int:
        """Leaves that could run at once now: on Ray's workers, or on threads where Ray is off."""
        if not self.ready:
            return 0
        return self.ray.workers_ready if self.ray else self.workers

    @property
    def kernels_left(self) -> int:
        """Groups of kernels that are yet to be compiled in the background: a request may have to wait for its own."""
        return self._warm_up.left if self._warm_up else 0

    def info(self) -> dict[str, object]:
        """What ``/v1/info`` tells of the engines."""
        return {
            "workers": self.workers,
            "kernels": {"groups": len(ALL), "to_compile": self.kernels_left},
            "ray": self.ray.info() if self.ray else None,
        }

    def plan(
        self,
        shape: tuple[int, ...],
        dtype: str,
        *,
        norm: str,
        axes: str | None = None,
        radius: float | None = None,
        sparsity: float | None = None,
        groups: int | None = None,
        exact: bool = False,
        engine: str = "auto",
        workers: int | None = None,
        split: str | None = None,
    ) -> Plan:
        """Plan a projection from shapes alone.

        Args:
            shape: the tensor's shape.
            dtype: its element type, such as ``"<f4"`` or ``"float32"``.
            norm: norms of the levels from outer to inner, such as ``"l1,linf"``.
            axes: the levels' axes, such as ``"1,0"``; default: one a level, the last takes the rest.
            radius: radius of the ball, finite and >= 0.
            sparsity: instead, the share of the outermost groups that vanishes, 0 to 1.
            groups: instead, the number of outermost groups that survive.
            exact: whether it must be the Euclidean projection, where one is known.
            engine: ``auto``, ``inline`` or ``ray``.
            workers: leaves at once; default: as many as make it faster.
            split: which axes are seen as several, before ``axes`` are counted; see `normtree.splits`.

        Raises:
            InvalidTensor: an element type that cannot be projected.
            InvalidParameter: any other of them is not permitted; the error's pointer names it.
            EngineUnavailable: Ray is asked for, and away.
        """
        if self._planned_by is not self.profile:
            self._plan.cache_clear()
            self._planned_by = self.profile
        away = self.ray is not None and self.ray.is_away
        try:
            goal = Goal(radius, sparsity, groups)
        except Refusal as error:
            raise refusal(error, InvalidParameter) from error
        plan = self._plan(shape, dtype, norm, (axes, split), goal, exact, (engine, away), workers)
        if plan.engine == "ray" and self.ray:
            self.ray.check_there()
        return plan

    def _make_plan(
        self,
        shape: tuple[int, ...],
        dtype: str,
        norm: str,
        axes_of: tuple[str | None, str | None],
        goal: Goal,
        exact: bool,
        choice: tuple[str, bool],
        workers: int | None,
    ) -> Plan:
        """Make a plan; small requests are alike, and planning one takes longer than projecting it."""
        try:
            check_dtype(dtype, "tensor")
        except Refusal as error:
            raise refusal(error, InvalidTensor) from error
        engine, away = choice
        axes, split = axes_of
        try:
            parsed = parse_split(split)
            seen = parsed.seen(shape)
            mixed = MixedNorm.parse(norm, axes, ndim=len(seen))
            plan = make_plan(
                seen, np.dtype(dtype).name, mixed, goal, exact=exact,
                profile=self.profile, max_workers=self.workers, engine=engine, workers=workers, away=away,
            )  # fmt: skip
            return replace(plan, split=parsed) if parsed.parts else plan
        except Refusal as error:
            raise refusal(error, InvalidParameter) from error

    def measure(self) -> MachineProfile:
        """Measure this machine anew, plan by it from now on, and keep the profile for the next start."""
        prepare(SWEEPS)
        limit_bytes = self.arena.capacity_bytes // 2
        self.profile = measure(this_machine(), self.workers, self._engines, self._request, limit_bytes)
        save_profile(self.profile)
        return self.profile

    def measure_if_due(self) -> None:
        """Measure this machine unless a profile of it was kept that is good for some time yet."""
        if self.profile.is_due:
            self.measure()

    def project(
        self,
        source: Tensor,
        target: Tensor,
        plan: Plan,
        *,
        baseline: Baseline = "none",
        deadline_s: float | None = None,
        cancel: Cancel | None = None,
        survivors: Survivors | None = None,
    ) -> Timing:
        """Project a tensor; blocks until it is done, or until no worker is at it any more.

        Args:
            source: the tensor, in a segment of the arena; not changed.
            target: where its projection goes: another segment, C order, native byte order.
            plan: from `plan`, for the source's shape and dtype.
            baseline: ``measure`` runs the serial reference too, after the plan; ``none`` models it.
            deadline_s: seconds that the work may take; default: the settings'.
            cancel: set it from any thread to end the work.
            survivors: is told which outermost groups survive, and the target gets no others, where radii tell that.

        Returns:
            The timing; ``target`` holds the projection, or what of it was asked for.

        Raises:
            InvalidTensor: an element is NaN or infinite (its index is told), or the norm overflows.
            Cancelled: ``cancel`` was set.
            DeadlineExceeded: the work took longer, and was ended.
            ArenaFull, OutOfMemory: there is no memory for the aggregates, or for a leaf.
            WorkersLost, EngineUnavailable: Ray failed.
        """
        deadline_s = self._settings.deadline_s if deadline_s is None else deadline_s
        terms = Terms(monotonic_ns() + int(deadline_s * 1e9), cancel)
        work = TensorRun(_seen(source, plan), _seen(target, plan), plan, survivors=survivors)
        return self._project([work], plan.goal, terms, deadline_s, baseline)

    def project_together(
        self,
        sources: Sequence[Tensor],
        targets: Sequence[Tensor],
        plans: Sequence[Plan],
        goal: Goal,
        *,
        names: Sequence[str] | None = None,
        survivors: Sequence[Survivors | None] | None = None,
        baseline: Baseline = "none",
        deadline_s: float | None = None,
        cancel: Cancel | None = None,
    ) -> Timing:
        """Project tensors onto one ball: the outermost groups of all of them, together, are the root's vector.

        Args:
            sources: the tensors, in segments of the arena; not changed.
            targets: where their projections go.
            plans: one for each, whose own goals are not looked at; two levels or more, one outermost norm, none of
                them exact.
            goal: what to reach with all together.
            names: what errors call each; default: ``tensor`` and its index.
            survivors: of each, as for `project`.
            baseline: as for `project`.
            deadline_s: as for `project`.
            cancel: as for `project`.

        Returns:
            One timing for all of them.

        Raises:
            InvalidParameter: plans that cannot be projected together, or a goal that they cannot reach.
            NormtreeError: as `project`; of a tensor the error tells the name.
        """
        check_together(plans, goal)
        deadline_s = self._settings.deadline_s if deadline_s is None else deadline_s
        names = [f"tensor {i}" for i in range(len(plans))] if names is None else names
        survivors = [None] * len(plans) if survivors is None else survivors
        works = [
            TensorRun(_seen(source, plan), _seen(target, plan), plan, name, one)
            for source, target, plan, name, one in zip(sources, targets, plans, names, survivors, strict=True)
        ]
        terms = Terms(monotonic_ns() + int(deadline_s * 1e9), cancel)
        return self._project(works, goal, terms, deadline_s, baseline)

    def _project(
        self, works: Sequence[TensorRun], goal: Goal, terms: Terms, deadline_s: float, baseline: Baseline
    ) -> Timing:
        """Run a tree, and tell what ends it."""
        self._under_way.add(id(terms))
        try:
            with _told(terms, deadline_s):
                try:
                    return self._run_timed(works, goal, terms, baseline)
                except EngineUnavailable:
                    if not all(work.plan.may_move for work in works):
                        raise
                return self._run_timed([_on_threads(work) for work in works], goal, terms, baseline)
        except BaseException as error:
            if isinstance(error, WorkersLost):
                for work in works:
                    self.arena.retire(work.target.segment)  # one that is taken for lost may still write to it
            raise
        finally:
            self._under_way.discard(id(terms))

    def _run_timed(self, works: Sequence[TensorRun], goal: Goal, terms: Terms, baseline: Baseline) -> Timing:
        """Run a tree once, and its serial reference if that is asked for."""
        plans = [work.plan for work in works]
        run = self._run(works, goal, terms)
        if not run.finite:
            raise _not_finite(works, run)
        if baseline == "none":
            return make_timing(plans, run, sum(plan.serial_ms for plan in plans), "modelled")
        return make_timing(plans, run, self._serial_ms(works, goal, terms), "measured")

    def _run(self, works: Sequence[TensorRun], goal: Goal, terms: Terms) -> Run:
        return run_tree(self._executor(works[0].plan), self.slates, works, goal, terms)

    def project_array(self, y: NDArray[Any], plan: Plan, *, baseline: Baseline = "none") -> tuple[NDArray[Any], Timing]:
        """Project an array that is not in the arena: copied in, projected, copied out, unless its plan is inline.

        Args:
            y: of the shape and dtype that was planned; not changed.
            plan: from `plan`.
            baseline: as for `project`.

        Returns:
            A new array, C order, native byte order, and the timing, the copies as ``receive`` and ``encode``.

        Raises:
            BodyTooLarge, ArenaFull: the arena, where workers see it, has no room for it twice.
            InvalidTensor, DeadlineExceeded, WorkersLost, EngineUnavailable: as `project`.
        """
        if self._executor(plan).in_process:
            return self._project_here(y, plan, baseline)
        with self.arena.lease(plan.nbytes) as inside, self.arena.lease(plan.nbytes) as outside:
            source, target = _tensor(inside, plan), _tensor(outside, plan)
            edges = [perf_counter()]
            source.array(writable=True)[...] = y.reshape(plan.shape)
            edges.append(perf_counter())
            timing = self.project(source, target, plan, baseline=baseline)
            edges.append(perf_counter())
            x = target.array().reshape(plan.own_shape).copy()
            edges.append(perf_counter())
        receive, _, encode = (1e3 * (b - a) for a, b in pairwise(edges))
        return x, timing.with_stages(receive=receive, encode=encode, total=1e3 * (edges[-1] - edges[0]))

    def _project_here(self, y: NDArray[Any], plan: Plan, baseline: Baseline) -> tuple[NDArray[Any], Timing]:
        """Project an array on threads of this process, which see it where it is."""
        edges = [perf_counter()]
        y = np.ascontiguousarray(y, y.dtype.newbyteorder("="))
        edges.append(perf_counter())
        x = aligned(plan.shape, plan.dtype)
        source, target = (Tensor("", plan.shape, plan.dtype, memory=_bytes(array)) for array in (y, x))
        timing = self.project(source, target, plan, baseline=baseline)
        edges.append(perf_counter())
        receive, _ = (1e3 * (b - a) for a, b in pairwise(edges))
        stages_ms = {"receive": receive, "encode": 0.0, "total": 1e3 * (edges[-1] - edges[0])}
        return x.reshape(plan.own_shape), timing.with_stages(**stages_ms)

    @property
    def _engines(self) -> tuple[Engine, ...]:
        return ("inline", "ray") if self.ray else ("inline",)

    def _executor(self, plan: Plan) -> Executor:
        return self.ray if plan.engine == "ray" and self.ray else self.inline

    def _serial_ms(self, works: Sequence[TensorRun], goal: Goal, terms: Terms) -> float:
        """Measure the same projection on one thread; it writes the same bits again."""
        serial = [replace(work, plan=work.plan.on_one_thread()) for work in works]
        return self._run(serial, goal, Terms(terms.end_ns, terms.cancel)).wall_ms

    def _request(self, profile: MachineProfile, engine: Engine) -> Request:
        """Make what an engine is measured with: it projects noise, each fibre to about a third of its norm."""
        mixed = MixedNorm.parse("l1,linf", ndim=2)

        def request(shape: tuple[int, int], workers: int) -> float:
            plan = make_plan(
                shape, "float32", mixed, Goal(radius=shape[0]),
                profile=profile, max_workers=workers, engine=engine, workers=workers,
            )  # fmt: skip
            with self.arena.lease(plan.nbytes) as inside, self.arena.lease(plan.nbytes) as outside:
                source, target = _tensor(inside, plan), _tensor(outside, plan)
                noise = np.random.default_rng(0).standard_normal(shape[1], np.float32)
                walls_ms = []
                for _ in range(_PROBES):
                    source.array(writable=True)[...] = noise  # a tensor comes through this process, not its workers
                    walls_ms.append(self.project(source, target, plan).wall_ms)
                return statistics.median(walls_ms[1:])

        return request


@contextmanager
def _told(terms: Terms, deadline_s: float) -> Iterator[None]:
    """Turn what ends a run into errors that tell the asker why."""
    try:
        yield
    except Stopped:
        if terms.cancel and terms.cancel.is_set:
            raise Cancelled("the request was cancelled, and its work has ended") from None
        raise DeadlineExceeded(
            f"deadline: the work took longer than {deadline_s:g} s and was cancelled",
            pointer="deadline_ms",
            limit=deadline_s,
        ) from None
    except MemoryError as error:
        raise OutOfMemory("a leaf found no memory for its work", retry_after_s=1) from error


def _not_finite(works: Sequence[TensorRun], run: Run) -> InvalidTensor:
    """Say which tensor cannot be projected, and why."""
    bad = works[next((i for i, norm in enumerate(run.norms) if not math.isfinite(norm)), 0)]
    y = bad.source.array().reshape(bad.plan.own_shape) if bad.plan.split.parts else bad.source.array()
    return refusal(not_finite(y, bad.name, bad.plan.norm), InvalidTensor, "tensor")


def _seen(tensor: Tensor, plan: Plan) -> Tensor:
    """See a tensor in the shape that its plan is for.

    Raises:
        InvalidParameter: its elements are not in the order in which axes are split.
    """
    if not plan.split.parts:
        return tensor
    if tensor.order == "F" and len(tensor.shape) > 1:
        detail = "split: wanted elements in row-major (C) order, got column-major (Fortran)"
        raise InvalidParameter(detail, pointer="split", got="F")
    return replace(tensor, shape=plan.shape, order="C")


def _on_threads(work: TensorRun) -> TensorRun:
    """The same on threads; Ray was lost in its middle."""
    return replace(work, plan=replace(work.plan, engine="inline", reason=RAY_IS_AWAY))


def _bytes(array: NDArray[Any]) -> memoryview:
    """Return the bytes of an array that is contiguous."""
    return array.reshape(-1).view(np.uint8).data


def _tensor(segment: Segment, plan: Plan) -> Tensor:
    return Tensor(segment.name, plan.shape, plan.dtype)
