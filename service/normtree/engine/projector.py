"""The projector: arena, machine profile and engines behind one door, for the service, the command line and jobs."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from normtree.engine.arena import Arena, Segment
from normtree.engine.environment import prepare_environment
from normtree.engine.inline import run_inline
from normtree.engine.plan import Plan, make_plan
from normtree.engine.profile import MachineProfile
from normtree.engine.run import Run, make_timing
from normtree.engine.tensor import Tensor
from normtree.engine.timing import Timing
from normtree.engine.warm import warm_kernels
from normtree.errors import InvalidParameter, InvalidTensor, NormtreeError
from normtree.settings import Settings
from normtree_kernels.arguments import describe_bad
from normtree_kernels.blocks import split
from normtree_kernels.dtypes import check_dtype
from normtree_kernels.goal import Goal
from normtree_kernels.norms import MixedNorm
from normtree_kernels.radius import settle

if TYPE_CHECKING:
    from normtree.engine.on_ray import RayEngine

Baseline = Literal["none", "measure"]
BASELINES: tuple[Baseline, ...] = ("none", "measure")
_PROBE_SHAPE = (64, 64)


class Projector:
    """Plans and runs projections of tensors that lie in its arena.

    Attributes:
        arena: where tensors live.
        profile: of this machine, measured at the start.
        workers: leaves that can run at once.
        ray: the Ray engine; None when it is off.
    """

    def __init__(self, settings: Settings, ray_engine: "RayEngine | None") -> None:
        """Warm this process and measure the machine; `start` makes the engine that belongs to it."""
        self._settings = settings
        self.ray = ray_engine
        self.workers = settings.workers
        self.arena = Arena(settings.arena_bytes)
        on_ray = self._probe("ray") if ray_engine else None
        self.profile = MachineProfile.measure(self._probe("inline"), on_ray)
        self.ready = True

    @classmethod
    def start(cls, settings: Settings) -> Self:
        """Compile or load the kernels, start or join Ray unless it is off, and measure the machine.

        Raises:
            EngineUnavailable: Ray cannot be started or reached.
        """
        warm_kernels()  # first alone: the workers then find machine code on disk, and none of them writes it
        if settings.inline_only:
            return cls(settings, None)
        prepare_environment(embedded=settings.ray_address is None)
        from normtree.engine.on_ray import RayEngine

        return cls(settings, RayEngine(settings.workers, settings.ray_address))

    def close(self) -> None:
        """Stop: not ready any more, segments removed, Ray left or ended."""
        self.ready = False
        self.arena.close()
        if self.ray:
            self.ray.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def info(self) -> dict[str, object]:
        """What ``/v1/info`` tells of the engines."""
        return {"workers": self.workers, "ray": self.ray.info() if self.ray else None}

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
            workers: leaves at once; default: all.

        Raises:
            InvalidTensor: an element type that cannot be projected.
            InvalidParameter: any other of them is not permitted; the error's pointer names it.
        """
        try:
            check_dtype(np.dtype(dtype), "tensor")
        except TypeError as error:
            raise InvalidTensor(str(error), pointer="tensor") from error
        try:
            mixed = MixedNorm.parse(norm, axes, ndim=len(shape))
            return make_plan(
                shape, np.dtype(dtype).name, mixed, Goal(radius, sparsity, groups), exact=exact,
                profile=self.profile, max_workers=self.workers, engine=engine, workers=workers,
            )  # fmt: skip
        except (TypeError, ValueError) as error:
            raise InvalidParameter(str(error), pointer=str(error).partition(":")[0]) from error

    def project(
        self,
        source: Tensor,
        target: Tensor,
        plan: Plan,
        *,
        baseline: Baseline = "none",
        deadline_s: float | None = None,
    ) -> Timing:
        """Project a tensor; blocks until it is done.

        Args:
            source: the tensor, in a segment of the arena; not changed.
            target: where its projection goes: another segment, C order, native byte order.
            plan: from `plan`, for the source's shape and dtype.
            baseline: ``measure`` runs the serial reference too, after the plan; ``none`` models it.
            deadline_s: seconds that the work may take on Ray; default: the settings'.

        Returns:
            The timing; ``target`` holds the projection.

        Raises:
            InvalidTensor: an element is NaN or infinite (its index is told), or the norm overflows.
            DeadlineExceeded: the work took longer, and was cancelled.
            WorkersLost, EngineUnavailable: Ray failed.
        """
        try:
            plan = replace(plan, goal=settle(plan.goal, plan.norm, source.array()))
        except ValueError as error:
            raise InvalidTensor(describe_bad(source.array(), "tensor", plan.norm), pointer="tensor") from error
        try:
            run = self._run(source, target, plan, self._settings.deadline_s if deadline_s is None else deadline_s)
        except NormtreeError:
            self.arena.retire(target.segment)  # a worker that was given up may still write to it
            raise
        if run.retries:
            self.arena.retire(target.segment)
        if not math.isfinite(run.root.norm):
            raise InvalidTensor(describe_bad(source.array(), "tensor", plan.norm), pointer="tensor")
        if baseline == "none":
            return make_timing(plan, run, plan.serial_ms, "modelled")
        return make_timing(plan, run, self._serial_ms(source, target, plan), "measured")

    def project_array(self, y: NDArray[Any], plan: Plan, *, baseline: Baseline = "none") -> tuple[NDArray[Any], Timing]:
        """Project an array that is not in the arena: copied in, projected, copied out.

        Args:
            y: of the plan's shape and dtype; not changed.
            plan: from `plan`.
            baseline: as for `project`.

        Returns:
            A new array, C order, native byte order, and the timing, the copies as ``receive`` and ``encode``.

        Raises:
            ArenaFull: the arena has no room for it twice.
            InvalidTensor, DeadlineExceeded, WorkersLost, EngineUnavailable: as `project`.
        """
        with self.arena.lease(plan.nbytes) as inside, self.arena.lease(plan.nbytes) as outside:
            source, target = _tensor(inside, plan), _tensor(outside, plan)
            edges = [perf_counter()]
            source.array(writable=True)[...] = y
            edges.append(perf_counter())
            timing = self.project(source, target, plan, baseline=baseline)
            edges.append(perf_counter())
            x = target.array().copy()
            edges.append(perf_counter())
        receive, _, encode = (1e3 * (b - a) for a, b in pairwise(edges))
        return x, timing.with_stages(receive=receive, encode=encode, total=1e3 * (edges[-1] - edges[0]))

    def _run(self, source: Tensor, target: Tensor, plan: Plan, deadline_s: float) -> Run:
        if plan.engine == "ray" and self.ray:
            return self.ray.run(source, target, plan, deadline_s=deadline_s)
        return run_inline(source, target, plan)

    def _serial_ms(self, source: Tensor, target: Tensor, plan: Plan) -> float:
        """Measure the same projection on one thread; it writes the same bits again."""
        serial = replace(plan, engine="inline", workers=1, blocks=split(plan.shape, plan.norm, 1))
        return run_inline(source, target, serial).wall_ms

    def _probe(self, engine: Literal["inline", "ray"]) -> Callable[[], float]:
        """Make a function that runs a tiny request on an engine and returns its wall less span, in milliseconds."""
        norm = MixedNorm.parse("l1,linf", ndim=len(_PROBE_SHAPE))
        blocks = split(_PROBE_SHAPE, norm, self.workers)
        plan = Plan(_PROBE_SHAPE, "float32", norm, Goal(1.0), False, engine, self.workers, "probe", blocks, {}, 0.0)

        def probe() -> float:
            with self.arena.lease(plan.nbytes) as source, self.arena.lease(plan.nbytes) as target:
                np.frombuffer(source.buffer, np.float32)[:] = 1.0
                run = self._run(_tensor(source, plan), _tensor(target, plan), plan, self._settings.deadline_s)
                return make_timing(plan, run, 0.0, "modelled").overhead_ms

        return probe


def _tensor(segment: Segment, plan: Plan) -> Tensor:
    return Tensor(segment.name, plan.shape, plan.dtype)
