"""The timing of a run: the schema filled from its clocks."""

import uuid
from typing import Literal

from normtree.engine.plan import Plan
from normtree.engine.run import Run
from normtree.engine.timing import LevelTiming, Timing


def make_timing(plan: Plan, run: Run, serial_ms: float, serial_is: Literal["measured", "modelled"]) -> Timing:
    """Fill the timing schema from a run's clocks."""
    leaves = [span for phase in run.phases if phase.sweep != "root" for span in phase.spans]
    levels = tuple(
        LevelTiming.of(level.norm, [span for span in (*leaves, *run.steps) if span.level == index])
        for index, level in enumerate(plan.norm.levels)
    )
    return Timing(
        engine=plan.engine,
        reason=plan.reason,
        norm=plan.norm.text,
        axes=plan.norm.axes_text,
        radius=run.radius,
        shape=plan.shape,
        dtype=plan.dtype,
        blocks=len(plan.blocks),
        workers=plan.workers,
        nodes=1,
        stages_ms=run.stages_ms,
        levels=levels,
        work_ms=run.work_ms,
        span_ms=run.span_ms,
        wall_ms=run.wall_ms,
        serial_ms=serial_ms,
        serial_is=serial_is,
        retries=run.retries,
        bytes_moved=run.bytes_moved,
        trace_id=uuid.uuid4().hex,
        spans=tuple(span for phase in run.phases for span in phase.spans),
    )
