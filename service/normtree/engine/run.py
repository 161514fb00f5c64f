"""What an engine reports of one run of the tree, and the timing made of it."""

import uuid
from dataclasses import dataclass
from typing import Literal

from normtree.engine.plan import Plan
from normtree.engine.timing import LevelTiming, Span, Timing
from normtree.engine.tree import Root


@dataclass(frozen=True)
class Run:
    """One run of the tree.

    Args:
        root: what the root found.
        ups: the leaves' work upwards.
        downs: and downwards.
        start_ns: `time.perf_counter_ns` when the engine was asked.
        stop_ns: and when it had the last leaf's answer.
        bytes_moved: bytes of aggregates and radii that crossed between processes.
        retries: pieces of work that were run again after a failure.
    """

    root: Root
    ups: tuple[Span, ...]
    downs: tuple[Span, ...]
    start_ns: int
    stop_ns: int
    bytes_moved: int
    retries: int

    @property
    def stages_ms(self) -> dict[str, float]:
        """The wall in three parts: until the last leaf is up, until the root is done, until all leaves are down."""
        up_ns = max(span.stop_ns for span in self.ups)
        root_ns = self.root.span.stop_ns
        edges = (self.start_ns, up_ns, root_ns, self.stop_ns)
        names = ("up", "root", "down")
        return {name: (b - a) / 1e6 for name, a, b in zip(names, edges[:-1], edges[1:], strict=True)}

    @property
    def wall_ms(self) -> float:
        """From the question to the last leaf's answer."""
        return (self.stop_ns - self.start_ns) / 1e6


def make_timing(plan: Plan, run: Run, serial_ms: float, serial_is: Literal["measured", "modelled"]) -> Timing:
    """Fill the timing schema from a run's clocks."""
    spans = (*run.ups, *run.root.steps, *run.downs)
    levels = tuple(
        LevelTiming.of(level.norm, [span for span in spans if span.level == index])
        for index, level in enumerate(plan.norm.levels)
    )
    root_ms = run.root.span.ms
    return Timing(
        engine=plan.engine,
        reason=plan.reason,
        norm=plan.norm.text,
        axes=plan.norm.axes_text,
        radius=run.root.radius,
        shape=plan.shape,
        dtype=plan.dtype,
        blocks=len(plan.blocks),
        workers=plan.workers,
        nodes=1,
        stages_ms=run.stages_ms,
        levels=levels,
        work_ms=sum(span.ms for span in (*run.ups, *run.downs)) + root_ms,
        span_ms=max(s.ms for s in run.ups) + root_ms + max(s.ms for s in run.downs),
        wall_ms=run.wall_ms,
        serial_ms=serial_ms,
        serial_is=serial_is,
        retries=run.retries,
        bytes_moved=run.bytes_moved,
        trace_id=uuid.uuid4().hex,
    )
