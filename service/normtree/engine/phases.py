"""The phases of a run: what is asked of an executor one after the other, and what their clocks told."""

from collections.abc import Callable, Iterable
from time import perf_counter_ns
from typing import Any, NamedTuple

from normtree.engine.executor import Executor, Leaf
from normtree.engine.stop import Stop
from normtree.engine.timing import Span, Sweep


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

    Args:
        executor: runs the leaves.
        workers: leaves at once.
        stop: when the work must end.

    Attributes:
        done: in the order they ran.
        retries: leaves that were run again because a worker was lost.
    """

    def __init__(self, executor: Executor, workers: int, stop: Stop) -> None:
        """Begin with none."""
        self.stop = stop
        self.done: list[Phase] = []
        self.retries = 0
        self._executor = executor
        self._workers = workers

    def run(
        self,
        sweep: Sweep,
        leaf: Leaf[Span],
        calls: Iterable[tuple[Any, ...]],
        on_answer: Callable[[int], None] | None = None,
    ) -> None:
        """Run a phase of leaves; arguments and errors as `normtree.engine.executor.Executor.run`."""
        answers = self._executor.run(leaf, calls, workers=self._workers, stop=self.stop, on_answer=on_answer)
        self.done.append(Phase(sweep, answers.values, perf_counter_ns()))
        self.retries += answers.retries

    def note_root(self, span: Span) -> None:
        """Note what the driver itself has just done."""
        self.done.append(Phase("root", (span,), perf_counter_ns()))
