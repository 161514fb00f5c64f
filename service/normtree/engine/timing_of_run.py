"""The timing of a run: the schema filled from its clocks."""

import secrets
from collections.abc import Iterable, Sequence
from math import prod
from typing import NamedTuple, Self

from normtree.engine.plan import Plan
from normtree.engine.run import Run
from normtree.engine.timing.schema import LevelTiming, SerialIs, Span, Timing
from normtree_kernels import MixedNorm

_TRACE_BYTES = 16


def make_timing(plans: Sequence[Plan], run: Run, serial_ms: float, serial_is: SerialIs) -> Timing:
    """Fill the timing schema from a run's clocks.

    Args:
        plans: of the run's tensors; of several, the shape is the number of all their elements.
        run: the run.
        serial_ms: what the same takes on one thread.
        serial_is: whether that was measured in the same request, predicted, or added up from the run's pieces.
    """
    told = _OfPlans.of(*plans)
    return Timing(
        engine=plans[0].engine,
        reason=told.reason,
        norm=told.norm,
        axes=told.axes,
        radius=run.reach.radius,
        groups_asked=run.reach.asked,
        groups_left=run.reach.left,
        shape=told.shape,
        dtype=told.dtype,
        blocks=told.blocks,
        workers=told.workers,
        nodes=1,
        stages_ms=run.stages_ms,
        levels=_levels(told.deepest, run),
        work_ms=run.work_ms,
        span_ms=run.span_ms,
        wall_ms=run.wall_ms,
        serial_ms=serial_ms,
        serial_is=serial_is,
        retries=run.retries,
        bytes_moved=run.bytes_moved,
        trace_id=secrets.token_hex(_TRACE_BYTES),
        spans=tuple([span for phase in run.phases for span in phase.spans]),
    )


class _OfPlans(NamedTuple):
    """What a timing tells of plans; ``deepest`` is the norm of the one with the most levels."""

    reason: str
    norm: str
    axes: str
    shape: tuple[int, ...]
    dtype: str
    blocks: int
    workers: int
    deepest: MixedNorm

    @classmethod
    def of(cls, plan: Plan, *others: Plan) -> Self:
        """Put it together; of one plan it is what stands there."""
        norm = plan.norm
        if not others:
            blocks = len(plan.blocks)
            return cls(plan.reason, norm.text, norm.axes_text, plan.shape, plan.dtype, blocks, plan.workers, norm)
        plans = (plan, *others)
        return cls(
            reason=_join(plan.reason for plan in plans),
            norm=_join(plan.norm.text for plan in plans),
            axes=_join(plan.norm.axes_text for plan in plans),
            shape=(sum(prod(plan.shape) for plan in plans),),
            dtype=_join(plan.dtype for plan in plans),
            blocks=sum(len(plan.blocks) for plan in plans),
            workers=max(plan.workers for plan in plans),
            deepest=max((plan.norm for plan in plans), key=lambda norm: len(norm.levels)),
        )


def _levels(deepest: MixedNorm, run: Run) -> tuple[LevelTiming, ...]:
    """Each level of the deepest tensor, with what the others did at the same depth."""
    together: dict[tuple[object, int], list[Span]] = {}  # what ran side by side, by sweep and level
    for number, phase in enumerate(run.phases):
        if phase.sweep != "root":
            for span in phase.spans:
                together.setdefault((number, span.level), []).append(span)
    for step in run.steps:
        together.setdefault((step.stage, step.level), []).append(step)
    sweeps: list[list[list[Span]]] = [[] for _ in deepest.levels]
    for (_, level), spans in together.items():
        sweeps[level].append(spans)
    return tuple([LevelTiming.of(level.norm.name, each) for level, each in zip(deepest.levels, sweeps, strict=True)])


def _join(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(texts))
