"""The phases of a run: what ran one after the other, and what their clocks told."""

from collections.abc import Iterable
from time import perf_counter_ns
from typing import NamedTuple

from normtree.engine.timing.schema import Span, Sweep


class Phase(NamedTuple):
    """One phase: leaves that ran side by side, or the root.

    Args:
        sweep: what they did.
        spans: their work, as their own clocks saw it.
        stop_ns: `time.perf_counter_ns` when the driver had the last one's answer.
    """

    sweep: Sweep
    spans: tuple[Span, ...]
    stop_ns: int

    @property
    def longest_ns(self) -> int:
        """The length of the longest of them."""
        all_ns = [span.stop_ns - span.start_ns for span in self.spans]
        return max(all_ns) if all_ns else 0


class Phases:
    """The phases of one run so far.

    Attributes:
        done: in the order they ran.
        moved: bytes of what went between leaves and root.
        retries: leaves that were run again because a worker was lost.
    """

    def __init__(self) -> None:
        self.done: list[Phase] = []
        self.moved = self.retries = 0

    def note(self, sweep: Sweep, spans: Iterable[Span]) -> None:
        """Note what has just ended."""
        self.done.append(Phase(sweep, tuple(spans), perf_counter_ns()))
