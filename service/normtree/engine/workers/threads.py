"""The inline engine: leaves on threads of this process."""

from collections.abc import Iterable
from typing import Any, TypeVar

from normtree.engine.executor import Answers, Leaf
from normtree.engine.memory.stop import Stop
from normtree.engine.workers.lanes import Lanes

R = TypeVar("R")


class _ThreadLane:
    """A lane whose worker is its own thread."""

    def call(self, leaf: Leaf[Any], args: tuple[Any, ...], stop: Stop) -> Any:
        """Run a leaf here."""
        return leaf(*args)

    def kill(self) -> None:
        """Do nothing: a thread ends by itself, at its next piece of work."""

    def close(self) -> None:
        """Do nothing."""


class InlineExecutor:
    """An executor on threads; one worker is the caller's own thread.

    Args:
        workers: leaves at once.
    """

    in_process = True

    def __init__(self, workers: int) -> None:
        """Start the threads."""
        self._lanes = Lanes([_ThreadLane() for _ in range(workers)], in_process=True)

    def run(
        self,
        leaf: Leaf[R],
        calls: Iterable[tuple[Any, ...]],
        *,
        workers: int,
        stop: Stop,
    ) -> Answers[R]:
        """Run one phase; see `normtree.engine.executor.Executor.run`."""
        if workers > 1:
            return self._lanes.run(leaf, calls, workers=workers, stop=stop)
        values = []
        for args in calls:
            stop.check()
            values.append(leaf(*args))
        return Answers(tuple(values), 0)

    def close(self) -> None:
        """End the threads."""
        self._lanes.close()
