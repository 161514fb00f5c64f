"""Executors: what runs the leaves of a tree over shared memory."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from normtree.engine.memory.stop import Stop

R = TypeVar("R")
Leaf = Callable[..., R]


@dataclass(frozen=True)
class Answers(Generic[R]):
    """What the leaves of one phase returned.

    Args:
        values: one a call, in the calls' order.
        retries: calls that were repeated because the worker that had them was lost.
    """

    values: tuple[R, ...]
    retries: int


class Executor(Protocol):
    """Runs leaves: importable functions of small arguments, tensors by name, whose every run has the same effect.

    Several requests may use one executor at once, from threads of their own.
    """

    in_process: bool
    """Whether leaves run in this process: then nothing moves between processes."""

    def run(
        self,
        leaf: Leaf[R],
        calls: Iterable[tuple[Any, ...]],
        *,
        workers: int,
        stop: Stop,
    ) -> Answers[R]:
        """Run one phase: each call once, or more often where a worker was lost; blocks until all have ended.

        Args:
            leaf: called with each call's arguments; it looks at the stop between pieces of work.
            calls: arguments of each call; the iteration may block until a call can begin.
            workers: calls under way at once, at most.
            stop: when the work must end; after an error it is set, so that what is under way ends too.

        Raises:
            Stopped: the time passed, or someone set it. No leaf of this phase runs any more.
            WorkersLost: workers were lost again and again. No leaf of this phase runs any more.
            Exception: what a leaf raised, or the iteration over ``calls``.
        """
        ...
