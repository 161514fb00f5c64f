"""Tasks on a cluster, each near its block; and what goes wrong there as errors that tell why."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic, time
from typing import Any

import ray
from ray import ObjectRef
from ray.exceptions import (
    GetTimeoutError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    RayError,
    RayTaskError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from normtree.engine.memory.stop import Stopped
from normtree.engine.timing.schema import Span
from normtree.errors import DeadlineExceeded, InvalidParameter, InvalidTensor, OutOfMemory, WorkersLost
from normtree_kernels.dtypes import Array

Leaf = Callable[..., tuple[Any, Span]]

Calls = Mapping[int, tuple[Any, ...]]
"""On which blocks, by their index, a leaf is run, and with which arguments of its own."""

_RETRIES = 3
_SETTLE_S = 5.0
_INLINE_BYTES = 100 << 10  # larger arguments are stored anew for each task
_FULL = (ObjectStoreFullError, OutOfDiskError, OutOfMemoryError)


@dataclass(frozen=True)
class Told:
    """What a task tells of itself.

    Args:
        span: its work, by its node's clock.
        node: where it ran.
        retries: how often it, or the node it was on, was lost before.
    """

    span: Span
    node: str
    retries: int


class Tasks:
    """The tasks of one projection.

    Args:
        blocks: what they work on.
        end_s: `time.monotonic` by which they must be done.
    """

    def __init__(self, blocks: Sequence[ObjectRef[Any]], end_s: float) -> None:
        """Begin with none."""
        self._blocks = list(blocks)
        self._end_s = end_s
        self._pending: list[Any] = []

    def run(self, leaf: Leaf, calls: Calls) -> tuple[list[Any], list[Told]]:
        """Run a leaf on blocks; return what all return, and tell."""
        values, told = self._submit(leaf, calls)
        self._pending = [*values, *told]
        found = self._wait(self._pending)
        return found[: len(values)], found[len(values) :]

    def run_kept(self, leaf: Leaf, calls: Calls) -> tuple[list[ObjectRef[Any]], list[Told]]:
        """Run a leaf that makes a block on blocks; return references to those, and what the tasks tell."""
        made, told = self._submit(leaf, calls)
        self._pending = [*made, *told]
        return made, self._wait(told)

    def share(self, array: Array) -> Any:
        """What to give to several tasks as an argument: the array, or a reference to it where it is large."""
        return ray.put(array) if array.nbytes > _INLINE_BYTES else array

    def settle(self) -> None:
        """Wait until no task runs any more, or a while: they stop by themselves once their time has passed."""
        ray.wait(self._pending, num_returns=len(self._pending), timeout=_SETTLE_S, fetch_local=False)

    def _submit(self, leaf: Leaf, calls: Calls) -> tuple[list[Any], list[Any]]:
        until_s = time() + (self._end_s - monotonic())
        blocks = [self._blocks[index] for index in calls]
        places = ray.experimental.get_object_locations(blocks)
        task: Any = ray.remote(num_cpus=1, max_retries=_RETRIES, num_returns=2)(_task)
        pairs = [
            task.options(scheduling_strategy=_near(places[block].get("node_ids", ()))).remote(
                leaf, until_s, block, *own
            )
            for block, own in zip(blocks, calls.values(), strict=True)
        ]
        return [value for value, _ in pairs], [told for _, told in pairs]

    def _wait(self, tasks: list[Any]) -> list[Any]:
        left_s = None if math.isinf(self._end_s) else max(0.0, self._end_s - monotonic())
        return list(ray.get(tasks, timeout=left_s))


def _task(leaf: Leaf, until_s: float, block: Array, *own: Any) -> tuple[Any, Told]:
    """Run a leaf in a task."""
    value, span = leaf(until_s, block, *own)
    context = ray.get_runtime_context()
    return value, Told(span, context.get_node_id(), context.worker.core_worker.get_current_task_attempt_number())


def _near(nodes: Sequence[str]) -> "NodeAffinitySchedulingStrategy | str":
    """Where a task is to run: at its block as long as that node lives. A small block travels with the task."""
    return NodeAffinitySchedulingStrategy(nodes[0], soft=True) if nodes else "DEFAULT"


@contextmanager
def told_apart(tasks: Tasks, deadline_s: float | None) -> Iterator[None]:
    """Turn what goes wrong on the cluster into errors that tell why."""
    detail = f"deadline: the work took longer than {deadline_s} s and was cancelled"
    try:
        yield
    except GetTimeoutError:
        tasks.settle()
        raise DeadlineExceeded(detail, limit=deadline_s) from None
    except _FULL as error:
        tasks.settle()
        raise OutOfMemory(f"a node of the cluster is full: {type(error).__name__}", retry_after_s=1) from error
    except RayTaskError as error:
        tasks.settle()
        cause = error.cause
        if isinstance(cause, Stopped):
            raise DeadlineExceeded(detail, limit=deadline_s) from None
        if isinstance(cause, MemoryError):
            raise OutOfMemory("a leaf found no memory for its work", retry_after_s=1) from error
        if isinstance(cause, _FULL):
            raise OutOfMemory(f"a node of the cluster is full: {type(cause).__name__}", retry_after_s=1) from error
        if isinstance(cause, RayError):
            raise WorkersLost(f"a block could not be had: {type(cause).__name__}", retry_after_s=1) from error
        if isinstance(cause, InvalidParameter | InvalidTensor):
            raise cause from None
        raise
    except RayError as error:
        raise WorkersLost(f"blocks or their workers were lost: {type(error).__name__}", retry_after_s=1) from error
