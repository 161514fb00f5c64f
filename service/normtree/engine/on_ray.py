"""The Ray engine: leaves on warm actors of this node, one lane each, and a warm spare that takes a lost one's place.

Ray starts the workers, places them, watches them and ends them. Each runs one task for as long as it lives: to answer
the calls that come over its line. Tensors are not arguments: a call carries names, the worker attaches the segments
and works where the bytes are. So a call is small, and what it costs is one message there and one back.
"""

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from threading import Condition, Thread
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from normtree.engine.executor import Answers, Leaf
from normtree.engine.lanes import LaneLost, Lanes
from normtree.engine.line import Answerer, Line, LineBroken, new_key
from normtree.engine.process import Process, pid_namespace
from normtree.engine.stop import Stop
from normtree.engine.tensor import attach
from normtree.engine.warm import warm_kernels
from normtree.errors import EngineUnavailable, WorkersLost

R = TypeVar("R")

_STORE_BYTES = 256 * 2**20  # calls are small: nothing of a tensor goes through Ray's store
_WARM_TIMEOUT_S = 300.0
_CLOSE_TIMEOUT_S = 20.0
_SPARES = 1
_POLL_S = 0.05

logger = logging.getLogger(__name__)


class RayExecutor:
    """Runs leaves on a Ray cluster: an embedded local one, or one that is there already and has a node here.

    Args:
        workers: leaves at once.
        address: address of a cluster with a node on this machine; None starts an embedded local one.
        segments: those that workers attach in advance.

    Raises:
        EngineUnavailable: Ray cannot be started or reached, or has no node here.
    """

    in_process = False

    def __init__(self, workers: int, address: str | None = None, segments: Sequence[str] = ()) -> None:
        """Connect, and warm a process for each worker and a spare one."""
        try:
            if address is None:
                _start_embedded(workers)
            else:
                ray.init(address=address, configure_logging=False, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError, RayError) as error:
            raise EngineUnavailable(f"Ray at {address or 'an embedded cluster'}: {error}") from error
        try:
            self._crew = _Crew(workers, segments)
            self._lanes = Lanes([_RayLane(self._crew) for _ in range(workers)], in_process=False)
        except BaseException:
            ray.shutdown()
            raise

    def info(self) -> dict[str, object]:
        """What ``/v1/info`` tells of the cluster."""
        nodes = ray.nodes()  # type: ignore[no-untyped-call]
        return {"version": ray.__version__, "nodes": sum(bool(node["Alive"]) for node in nodes)}

    def worker_pids(self) -> list[int]:
        """Process ids of the workers that live, spare ones included."""
        return self._crew.pids()

    def run(
        self,
        leaf: Leaf[R],
        calls: Iterable[tuple[Any, ...]],
        *,
        workers: int,
        stop: Stop,
        on_answer: Callable[[int], None] | None = None,
    ) -> Answers[R]:
        """Run one phase; see `normtree.engine.executor.Executor.run`.

        Raises:
            EngineUnavailable: no worker can be started any more.
        """
        return self._lanes.run(leaf, calls, workers=workers, stop=stop, on_answer=on_answer)

    def close(self) -> None:
        """Leave the cluster; workers end with it, and an embedded one itself."""
        self._lanes.close()
        self._crew.close()
        ray.shutdown()


class _Host:
    """What Ray runs in a worker process: the answering end of a line."""

    def __init__(self, key: bytes, segments: Sequence[str]) -> None:
        """Run every kernel once, map segments, so that no request pays for either, and listen."""
        warm_kernels()
        for segment in segments:
            with suppress(FileNotFoundError):  # given up meanwhile
                attach(segment, populate=True)
        self._answerer = Answerer(key)

    def identity(self) -> tuple[str, int, int]:
        """Where to call, this process, and the namespace in which its id means something."""
        return self._answerer.address, os.getpid(), pid_namespace()

    def answer(self) -> None:
        """Run leaves until the driver hangs up."""
        self._answerer.answer()


class _Worker:
    """A worker as the driver sees it: its actor, its process, and the line to it."""

    def __init__(self, hire: Any, segments: Sequence[str]) -> None:
        """Have Ray start one, and wait until it is warm and answers."""
        key = new_key()
        self._actor = hire.remote(key, segments)
        address, self.pid, namespace = ray.get(self._actor.identity.remote(), timeout=_WARM_TIMEOUT_S)
        self._process = Process.find(self.pid, namespace)
        self._answering = self._actor.answer.remote()
        self._line = Line(address, key)

    def call(self, leaf: Leaf[Any], args: tuple[Any, ...]) -> Any:
        """Run a leaf there; see `Line.call`."""
        return self._line.call(leaf, args)

    @property
    def has_ended(self) -> bool:
        """Whether it is known to be gone."""
        return self._process is not None and self._process.has_ended

    def kill(self) -> None:
        """End it, so that a call under way breaks; the process may take a moment."""
        self._line.hang_up()
        ray.kill(self._actor, no_restart=True)

    def bury(self) -> bool:
        """End it, and tell whether it is sure to be gone: what it was at may then be written by another."""
        self.kill()
        self._line.close()
        return self._process is not None and self._process.end()


class _Crew:
    """The workers: those that lanes have taken, and those that wait to be.

    Args:
        workers: how many lanes will take one.
        segments: those that each of them attaches in advance.
    """

    def __init__(self, workers: int, segments: Sequence[str]) -> None:
        """Start as many, and a spare; return when all are warm."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        # A lane keeps its worker for good: counted as a CPU it would leave none to other work on the cluster.
        self._hire: Any = ray.remote(num_cpus=0, max_restarts=0, scheduling_strategy=here)(_Host)  # type: ignore[call-overload]
        self._segments = segments
        self._changed = Condition()
        self._waiting: list[_Worker] = []
        self._taken: list[_Worker] = []
        self._error: BaseException | None = None
        self._closed = False
        self._hiring: list[Thread] = []
        starting = [Thread(target=self._start, daemon=True) for _ in range(workers + _SPARES)]
        for thread in starting:
            thread.start()
        for thread in starting:
            thread.join()
        if self._error:
            raise EngineUnavailable(f"Ray cannot run workers on this node: {self._error}") from self._error

    def pids(self) -> list[int]:
        """Process ids of all."""
        with self._changed:
            return [worker.pid for worker in (*self._taken, *self._waiting)]

    def take(self, stop: Stop | None = None) -> _Worker:
        """Take a waiting worker, or wait for one that is being started.

        Raises:
            EngineUnavailable: none can be started.
            Stopped: it took too long.
        """
        with self._changed:
            while True:
                while self._waiting:
                    worker = self._waiting.pop()
                    if not worker.has_ended:
                        self._taken.append(worker)
                        return worker
                    self._replace()
                if self._error:
                    error, self._error = self._error, None
                    self._replace()
                    raise EngineUnavailable(f"Ray cannot run workers on this node: {error}", retry_after_s=1)
                if stop:
                    stop.check()
                self._changed.wait(_POLL_S)

    def lose(self, worker: _Worker) -> None:
        """Make sure that a taken worker is gone, and start another in the background.

        Raises:
            WorkersLost: it may still run.
        """
        with self._changed:
            self._taken.remove(worker)
            self._replace()
        if not worker.bury():
            raise WorkersLost(f"worker {worker.pid} was lost and may still run", retry_after_s=1)

    def close(self) -> None:
        """Start no more; those there are end with the connection to Ray, and nobody is being started any more."""
        with self._changed:
            self._closed = True
            hiring = list(self._hiring)
        for thread in hiring:
            thread.join(_CLOSE_TIMEOUT_S)

    def _replace(self) -> None:
        if not self._closed:
            self._hiring = [thread for thread in self._hiring if thread.is_alive()]
            self._hiring.append(Thread(target=self._start, name="normtree-hire", daemon=True))
            self._hiring[-1].start()

    def _start(self) -> None:
        try:
            worker = _Worker(self._hire, self._segments)
        except Exception as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()
            return
        with self._changed:
            self._waiting.append(worker)
            self._changed.notify_all()


class _RayLane:
    """A lane over a worker of the crew."""

    def __init__(self, crew: _Crew) -> None:
        """Take a warm worker."""
        self._crew = crew
        self._worker: _Worker | None = crew.take()

    def call(self, leaf: Leaf[Any], args: tuple[Any, ...], stop: Stop) -> Any:
        """Run a leaf on the lane's worker, or on the spare one if that was lost."""
        worker = self._worker = self._worker or self._crew.take(stop)
        try:
            return worker.call(leaf, args)
        except LineBroken as error:
            logger.warning("lost worker %d", worker.pid)
            self._worker = None
            self._crew.lose(worker)
            raise LaneLost from error

    def kill(self) -> None:
        """End the worker under way."""
        if self._worker:
            self._worker.kill()

    def close(self) -> None:
        """Leave the worker to the crew."""


def _start_embedded(workers: int) -> None:
    ray.init(
        address="local",
        num_cpus=workers,
        object_store_memory=_STORE_BYTES,
        include_dashboard=False,
        configure_logging=False,
        log_to_driver=False,
    )
