"""Tasks as Ray tasks: on an embedded Ray of this machine, or on a cluster whose nodes share the storage.

Tasks are plain data and pure, so Ray does one again wherever a worker or a node is lost. They read and write their
own slices of the files; what travels is aggregates, radii and facts.
"""

from functools import cache
from platform import node
from time import monotonic, sleep
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from normtree.engine.cluster.driver import own_modules
from normtree.engine.cluster.ray_environment import FOLDER_WANTED
from normtree.engine.kernels import Kernels, prepare
from normtree.errors import EngineUnavailable, NormtreeError, WorkersLost
from normtree.jobs.plan.pieces import Task, TaskDone
from normtree.jobs.storage.places import Folder, Target
from normtree.jobs.tasks.perform import Scratch, perform
from normtree.processes import usable

_RETRIES = 5
_STORE_BYTES = 128 * 2**20  # aggregates only
_WARM_TIMEOUT_S = 120.0
_HOLD_S = 0.2  # so that one process does not take two of the tasks that warm


class RayRunner:
    """Does tasks on Ray.

    Args:
        source: the input, at the same path or URL on every node.
        target: the output, likewise.
        kernels: those to load in each worker before the first task.
        workers: tasks at once; None: the CPUs of the cluster, or the usable cores.
        address: of a cluster; None: an embedded one of this process, or the one it is connected to already.

    Raises:
        EngineUnavailable: Ray cannot be started or reached, or cannot run tasks.
    """

    engine = "ray"
    retries = None

    def __init__(
        self,
        source: Folder,
        target: Target,
        kernels: frozenset[Kernels],
        workers: int | None,
        address: str | None = None,
    ) -> None:
        """Connect, and have the kernels loaded in as many processes as there are workers."""
        self._owned = not ray.is_initialized()
        try:
            if self._owned:
                _connect(workers, address)
            self._files = ray.put((source, target))
            cpus = int(ray.cluster_resources().get("CPU", 0))  # type: ignore[no-untyped-call]
            self.nodes = sum(bool(found["Alive"]) for found in ray.nodes())  # type: ignore[no-untyped-call]
        except (ConnectionError, RuntimeError, ValueError, RayError) as error:
            raise EngineUnavailable(f"Ray at {address or 'an embedded cluster'}: {error}") from error
        except OSError as error:
            raise EngineUnavailable(f"Ray cannot keep its files: {error}; {FOLDER_WANTED}") from error
        self.workers = min(workers or cpus, cpus)
        as_task: Any = ray.remote(num_cpus=1, max_retries=_RETRIES, scheduling_strategy="SPREAD")
        self._perform = as_task(_perform)
        self._warm = as_task(_warm_here)
        self._pending: list[Any] = []
        try:
            self._warm_workers(kernels)
        except BaseException:
            self.close()
            raise

    def submit(self, task: Task) -> None:
        """Take a task."""
        self._pending.append(self._perform.remote(self._files, task))

    def next(self) -> TaskDone:
        """Wait for any task to be done."""
        (ready,), self._pending = ray.wait(self._pending, num_returns=1)
        try:
            done: TaskDone = ray.get(ready)
        except RayTaskError as error:
            cause = getattr(error, "cause", None)
            raise cause if isinstance(cause, NormtreeError) else error from None
        except RayError as error:
            raise WorkersLost(
                f"a task failed {1 + _RETRIES} times: {type(error).__name__}; run the job again"
            ) from error
        return done

    def close(self) -> None:
        """Cancel what is pending and leave the cluster; an embedded one ends."""
        for task in self._pending:
            ray.cancel(task, force=False)
        if self._pending:
            ray.wait(self._pending, num_returns=len(self._pending), timeout=_WARM_TIMEOUT_S, fetch_local=False)
        if self._owned:
            ray.shutdown()

    def _warm_workers(self, kernels: frozenset[Kernels]) -> None:
        workers: set[str] = set()
        end_s = monotonic() + _WARM_TIMEOUT_S
        while len(workers) < self.workers:
            if monotonic() > end_s:
                raise EngineUnavailable(
                    f"Ray started {len(workers)} of {self.workers} workers in {_WARM_TIMEOUT_S:g} s"
                )
            try:
                workers.update(
                    ray.get([self._warm.remote(kernels) for _ in range(self.workers)], timeout=_WARM_TIMEOUT_S)
                )
            except RayError as error:
                raise EngineUnavailable(f"Ray cannot run tasks: {error}") from error


def _connect(workers: int | None, address: str | None) -> None:
    quiet: dict[str, Any] = {"job_config": own_modules(), "configure_logging": False, "log_to_driver": False}
    if address is not None:
        ray.init(address=address, **quiet)
    else:
        cpus = workers or usable.cores()
        ray.init(address="local", num_cpus=cpus, object_store_memory=_STORE_BYTES, include_dashboard=False, **quiet)


def _perform(files: tuple[Folder, Target], task: Task) -> TaskDone:
    source, target = files
    return perform(source, target, task, _scratch(), node())


def _warm_here(kernels: frozenset[Kernels]) -> str:
    """Load the kernels in this worker, stay busy a while, and tell which worker it is."""
    prepare(kernels)
    sleep(_HOLD_S)
    return str(ray.get_runtime_context().get_worker_id())


@cache
def _scratch() -> Scratch:
    """Return the one of this worker process, which does one task at a time."""
    return Scratch()
