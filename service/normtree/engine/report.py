"""The timing of a run: the schema filled from its clocks."""

import secrets
from collections.abc import Iterable, Sequence
from math import prod
from typing import Literal

from normtree.engine.plan import Plan
from normtree.engine.run import Run
from normtree.engine.timing import LevelTiming, Span, Timing

_TRACE_BYTES = 16


def make_timing(
    plans: Sequence[Plan], run: Run, serial_ms: float, serial_is: Literal["measured", "modelled"]
) -> Timing:
    """Fill the timing schema from a run's clocks.

    Args:
        plans: of the run's tensors; of several, the shape is the number of all their elements.
        run: the run.
        serial_ms: what the same takes on one thread.
        serial_is: whether that was measured in the same request, or predicted.
    """
    first = plans[0]
    return Timing(
        engine=first.engine,
        reason=_join(plan.reason for plan in plans),
        norm=_join(plan.norm.text for plan in plans),
        axes=_join(plan.norm.axes_text for plan in plans),
        radius=run.radius,
        shape=first.shape if len(plans) == 1 else (sum(prod(plan.shape) for plan in plans),),
        dtype=_join(plan.dtype for plan in plans),
        blocks=sum(len(plan.blocks) for plan in plans),
        workers=max(plan.workers for plan in plans),
        nodes=1,
        stages_ms=run.stages_ms,
        levels=_levels(plans, run),
        work_ms=run.work_ms,
        span_ms=run.span_ms,
        wall_ms=run.wall_ms,
        serial_ms=serial_ms,
        serial_is=serial_is,
        retries=run.retries,
        bytes_moved=run.bytes_moved,
        trace_id=secrets.token_hex(_TRACE_BYTES),
        spans=tuple(span for phase in run.phases for span in phase.spans),
    )


def _levels(plans: Sequence[Plan], run: Run) -> tuple[LevelTiming, ...]:
    """Each level of the deepest tensor, with what the others did at the same depth."""
    deepest = max((plan.norm for plan in plans), key=lambda norm: len(norm.levels))
    leaves = [phase.spans for phase in run.phases if phase.sweep != "root"]
    steps = [[step for step in run.steps if step.stage == stage] for stage in ("up", "down")]
    phases: list[list[list[Span]]] = [[] for _ in deepest.levels]
    for spans in (*leaves, *steps):
        by_level: dict[int, list[Span]] = {}
        for span in spans:
            by_level.setdefault(span.level, []).append(span)
        for index, together in by_level.items():
            phases[index].append(together)
    return tuple(LevelTiming.of(level.norm, each) for level, each in zip(deepest.levels, phases, strict=True))


def _join(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(texts))
