"""The Ray engine: the tree as Ray tasks, chained by references so that the driver asks once and waits once.

Tensors are not arguments: a task carries a tensor's name, attaches its segment and works where the bytes are, so
tasks stay on the driver's node. Only aggregates and radii are results.
"""

import logging
import os
from collections.abc import Sequence
from time import monotonic, perf_counter_ns, sleep
from typing import Any

import ray
from ray.exceptions import (
    GetTimeoutError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from normtree.engine.plan import Plan
from normtree.engine.run import Run
from normtree.engine.tensor import Tensor
from normtree.engine.tree import leaf_down, leaf_up, root
from normtree.engine.warm import warm_kernels
from normtree.errors import DeadlineExceeded, EngineUnavailable, WorkersLost

_STORE_BYTES = 256 * 2**20  # only aggregates and radii go through Ray's store
_ATTEMPTS = 4
_WARM_TIMEOUT_S = 300.0
_SETTLE_TIMEOUT_S = 5.0
_LOST = (WorkerCrashedError, NodeDiedError, ObjectLostError, OutOfMemoryError)

logger = logging.getLogger(__name__)


class RayEngine:
    """Runs trees on a Ray cluster: an embedded local one, or one that is there already.

    Args:
        workers: leaves at once.
        address: address of a cluster with a node on this machine; None starts an embedded local one.

    Raises:
        EngineUnavailable: Ray cannot be started or reached, or has no node here.
    """

    def __init__(self, workers: int, address: str | None = None) -> None:
        """Connect, and warm a process for each worker."""
        try:
            if address is None:
                _start_embedded(workers)
            else:
                ray.init(address=address, configure_logging=False, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError, RayError) as error:
            raise EngineUnavailable(f"Ray at {address or 'an embedded cluster'}: {error}") from error
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        as_task: Any = ray.remote(num_cpus=1, max_retries=0, scheduling_strategy=here)  # type: ignore[call-overload]
        self._leaf_up = as_task(leaf_up)
        self._leaf_down = as_task(leaf_down)
        self._root = as_task(root)
        self._warm = as_task(_warm_here)
        self.workers = workers
        self.warm_workers()

    def info(self) -> dict[str, object]:
        """What ``/v1/info`` tells of the cluster."""
        nodes = ray.nodes()  # type: ignore[no-untyped-call]
        return {"version": ray.__version__, "nodes": sum(bool(node["Alive"]) for node in nodes)}

    def run(self, source: Tensor, target: Tensor, plan: Plan, *, deadline_s: float) -> Run:
        """Project a tensor on the workers; blocks until they are done.

        A failed attempt is repeated whole: leaves are pure, so whatever it left behind is overwritten.

        Args:
            source: the tensor; not changed.
            target: where its projection goes; another segment.
            plan: from `normtree.engine.plan.make_plan`.
            deadline_s: seconds it may take.

        Raises:
            DeadlineExceeded: it took longer; its tasks are cancelled.
            WorkersLost: workers died again and again.
            EngineUnavailable: Ray itself failed.
        """
        start_ns = perf_counter_ns()
        end_s = monotonic() + deadline_s
        for attempt in range(_ATTEMPTS):
            tasks = self._submit(source, target, plan)
            try:
                ups, (top, *downs) = _collect(tasks, len(plan.blocks), end_s)
            except _LOST as error:
                logger.warning("attempt %d lost a worker: %s", attempt + 1, type(error).__name__)
                _settle(tasks)
                continue
            except GetTimeoutError:
                _settle(tasks)
                raise DeadlineExceeded(
                    f"deadline: the work took longer than {deadline_s} s and was cancelled", limit=deadline_s
                ) from None
            except RayTaskError:  # a leaf's own error is a bug, with the worker's traceback in it
                raise
            except RayError as error:
                raise EngineUnavailable(f"Ray failed: {type(error).__name__}") from error
            spans = tuple(span for _, span in ups)
            return Run(top, spans, tuple(downs), start_ns, perf_counter_ns(), top.nbytes, attempt)
        raise WorkersLost(f"workers died in each of {_ATTEMPTS} attempts", retry_after_s=1)

    def close(self) -> None:
        """Leave the cluster; an embedded one ends."""
        ray.shutdown()

    def _submit(self, source: Tensor, target: Tensor, plan: Plan) -> list[Any]:
        """Submit the whole tree: leaves up, the root on their results, leaves down on the root's."""
        blocks = plan.blocks
        ups = [self._leaf_up.remote(source, plan.norm, block) for block in blocks]
        top, *leaves = self._root.options(num_returns=1 + len(blocks)).remote(plan, source, *ups)
        pairs = zip(blocks, leaves, strict=True)
        downs = [self._leaf_down.remote(source, target, plan.norm, block, leaf) for block, leaf in pairs]
        return [*ups, top, *downs]

    def warm_workers(self) -> set[int]:
        """Run every kernel once in each worker process, so that no request pays for loading them.

        Returns:
            The process ids of the workers.

        Raises:
            EngineUnavailable: fewer came up than are wanted, or they cannot run tasks.
        """
        end_s = monotonic() + _WARM_TIMEOUT_S
        warm: set[int] = set()
        while len(warm) < self.workers:
            if monotonic() > end_s:
                raise EngineUnavailable(f"Ray started {len(warm)} of {self.workers} workers in {_WARM_TIMEOUT_S} s")
            hold_s = 0.2  # so that one process does not take two of the tasks
            tasks = [self._warm.remote(hold_s) for _ in range(self.workers)]
            try:
                warm.update(ray.get(tasks, timeout=_WARM_TIMEOUT_S))
            except RayError as error:
                raise EngineUnavailable(f"Ray cannot run tasks on this node: {error}") from error
        return warm


def _collect(tasks: Sequence[Any], blocks: int, end_s: float) -> tuple[list[Any], list[Any]]:
    """Wait for all tasks; return the leaves' answers up, and the root's with the leaves' down."""
    answers = ray.get(list(tasks), timeout=max(0.0, end_s - monotonic()))
    return answers[:blocks], answers[blocks:]


def _settle(tasks: Sequence[Any]) -> None:
    """Cancel tasks and wait until the running ones have ended, or a while."""
    for task in tasks:
        ray.cancel(task, force=False)
    ray.wait(list(tasks), num_returns=len(tasks), timeout=_SETTLE_TIMEOUT_S, fetch_local=False)


def _warm_here(hold_s: float) -> int:
    """Warm the kernels in this worker, stay busy a while, and return its process id."""
    warm_kernels()
    sleep(hold_s)
    return os.getpid()


def _start_embedded(workers: int) -> None:
    ray.init(
        address="local",
        num_cpus=workers,
        object_store_memory=_STORE_BYTES,
        include_dashboard=False,
        configure_logging=False,
        log_to_driver=False,
    )
