"""The timing of an answer: one schema for HTTP, command line, jobs and benchmarks, filled from real clocks."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, Self

from normtree_kernels.tree.goal import nothing_left

Sweep = Literal["up", "root", "down"]
Stage = Literal["receive", "decode", "queue", "place", "up", "root", "down", "encode", "total"]
SerialIs = Literal["measured", "modelled", "summed"]
STAGES: tuple[Stage, ...] = ("receive", "decode", "queue", "place", "up", "root", "down", "encode", "total")

_NS_PER_MS = 1e6


class Span(NamedTuple):
    """A piece of work as the clock of the one who did it saw it.

    Args:
        stage: ``up``, ``root`` or ``down``.
        level: index of the level it worked on, 0 the outermost.
        start_ns: `time.perf_counter_ns` when it began; one clock for all processes of a node.
        stop_ns: and when it ended.
        nbytes: bytes read and written.
        worker: id of the thread that did it, as the system counts them.
    """

    stage: Sweep
    level: int
    start_ns: int
    stop_ns: int
    nbytes: int
    worker: int

    @property
    def ms(self) -> float:
        """Its length, in milliseconds."""
        return (self.stop_ns - self.start_ns) / _NS_PER_MS


class LevelTiming(NamedTuple):
    """What one level of the tree cost, both sweeps together.

    Args:
        norm: the level's norm.
        tasks: pieces of work.
        wall_ms: from first start to last end of each sweep, added.
        work_ms: sum of the pieces.
        span_ms: longest piece of each sweep, added.
        bytes: bytes read and written.
        gb_per_s: bytes over wall.
    """

    norm: str
    tasks: int
    wall_ms: float
    work_ms: float
    span_ms: float
    bytes: int
    gb_per_s: float

    @classmethod
    def of(cls, norm: str, phases: Iterable[Sequence[Span]]) -> Self:
        """Sum up the work of one level: the pieces of each phase, which ran side by side."""
        tasks, nbytes, wall_ns, work_ns, span_ns = 0, 0, 0, 0, 0
        for phase in phases:
            if not phase:
                continue
            first_ns, last_ns, longest_ns = phase[0].start_ns, 0, 0
            for _, _, start_ns, stop_ns, moved, _ in phase:  # a small tensor has one: no calls for what it has alone
                took_ns = stop_ns - start_ns
                work_ns += took_ns
                nbytes += moved
                first_ns = start_ns if start_ns < first_ns else first_ns
                last_ns = stop_ns if stop_ns > last_ns else last_ns
                longest_ns = took_ns if took_ns > longest_ns else longest_ns
            tasks += len(phase)
            wall_ns += last_ns - first_ns
            span_ns += longest_ns
        wall_ms, work_ms, span_ms = wall_ns / _NS_PER_MS, work_ns / _NS_PER_MS, span_ns / _NS_PER_MS
        return cls(norm, tasks, wall_ms, work_ms, span_ms, nbytes, nbytes / (wall_ms * 1e6) if wall_ns else 0.0)


class Timing(NamedTuple):
    """What an answer cost, and what parallelism bought.

    ``wall_ms`` is up + root + down as the asker waited; ``work_ms`` the sum of all pieces; ``span_ms`` the critical
    path: the slowest leaf of each phase and the root. ``speedup`` compares the wall with the serial
    reference, which ``serial_is`` says was measured in the same request, modelled from the machine profile, or summed:
    the pieces' own times added, where nothing else is known.
    ``retries`` are pieces that were run again because their worker was lost; None where nobody counts them.
    ``groups_asked`` are the outermost groups that were to survive at most, and ``groups_left`` those that do; None
    where the goal was a radius. ``spans`` are the pieces themselves; they are no part of the schema, and
    `normtree.engine.timing.trace` draws them.
    """

    engine: str
    reason: str
    norm: str
    axes: str
    radius: float
    shape: tuple[int, ...]
    dtype: str
    blocks: int
    workers: int
    nodes: int
    stages_ms: Mapping[str, float]
    levels: tuple[LevelTiming, ...]
    work_ms: float
    span_ms: float
    wall_ms: float
    serial_ms: float
    serial_is: SerialIs
    retries: int | None
    bytes_moved: int
    trace_id: str
    groups_asked: int | None = None
    groups_left: int | None = None
    spans: tuple[Span, ...] = ()

    @property
    def speedup(self) -> float:
        """Serial reference over wall."""
        return self.serial_ms / self.wall_ms if self.wall_ms else 1.0

    @property
    def parallelism(self) -> float:
        """Work over span: the speed-up that unlimited workers could reach with these blocks."""
        return self.work_ms / self.span_ms if self.span_ms else 1.0

    @property
    def efficiency(self) -> float:
        """Speed-up over workers."""
        return self.speedup / self.workers

    @property
    def warning(self) -> str:
        """That groups were asked for, and none is left; else nothing."""
        return nothing_left(self.groups_asked, self.groups_left)

    @property
    def overhead_ms(self) -> float:
        """Wall less span: what was spent on neither leaves nor root."""
        return self.wall_ms - self.span_ms

    def with_stages(self, **stages_ms: float) -> Self:
        """Add stages that happened outside the engine, in milliseconds."""
        merged = {**self.stages_ms, **stages_ms}
        ordered: dict[str, float] = {stage: merged[stage] for stage in STAGES if stage in merged}
        if len(ordered) < len(merged):
            unknown = sorted(merged.keys() - ordered.keys())
            raise ValueError(f"stages: wanted some of {', '.join(STAGES)}, got {', '.join(unknown)}")
        return self._replace(stages_ms=ordered)

    def as_dict(self) -> dict[str, object]:
        """The schema as plain values, for JSON."""
        plain = self._asdict()
        del plain["spans"]
        plain["stages_ms"] = dict(self.stages_ms)
        plain["levels"] = [level._asdict() for level in self.levels]
        plain["speedup"] = self.speedup
        plain["parallelism"] = self.parallelism
        plain["efficiency"] = self.efficiency
        plain["overhead_ms"] = self.overhead_ms
        plain["warning"] = self.warning
        return plain
