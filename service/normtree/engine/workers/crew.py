"""The crew: the worker processes of a cluster, hired, given to lanes, watched and replaced.

There are as many as lanes and a warm spare, which takes the place of one that is lost. When the cluster is lost, all
of them are, and the crew waits for the next cluster.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from threading import Condition, Thread
from time import monotonic
from typing import Any

from normtree.engine.cluster.cluster import Cluster
from normtree.engine.cluster.line import Line, LineBroken, new_key
from normtree.engine.cluster.process import Process
from normtree.engine.executor import Leaf
from normtree.engine.memory.stop import Stop
from normtree.errors import EngineUnavailable, WorkersLost

_SPARES = 1
_LEAST_RETRY_S = 1
_POLL_S = 0.05
_STOPPED_S = 5.0  # that a worker may be stopped by a signal before another takes its place
_PAUSE_S = 1.0  # after a worker that could not be hired

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Away:
    """That there is no cluster.

    Args:
        why: it was lost, or could not be had.
        since: when that was.
        again_s: `time.monotonic` at which there may be one again.
    """

    why: str
    since: datetime
    again_s: float

    def error(self) -> EngineUnavailable:
        """What whoever wants a worker is told."""
        left_s = math.ceil(self.again_s - monotonic())
        return EngineUnavailable(f"Ray is away: {self.why}", retry_after_s=max(_LEAST_RETRY_S, left_s))


class Worker:
    """A worker as the service sees it: its process, and the line to it.

    Args:
        cluster: that it belongs to.
        segments: those that it maps in advance.

    Raises:
        EngineUnavailable: Ray does not start it.
        LineBroken, ProcessLookupError: it has ended at once.
    """

    def __init__(self, cluster: Cluster, segments: Sequence[str]) -> None:
        """Have it started, and wait until it is warm and answers."""
        key = new_key()
        hired = cluster.hire(key, segments)
        self.cluster = cluster
        self.pid = hired.pid
        self.stopped_since_s: float | None = None
        self.number = hired.number
        try:
            self._process = Process.find(hired.pid, hired.namespace)
            self._line = Line(hired.address, key)
        except BaseException:
            cluster.fire(hired.number)
            raise

    def call(self, leaf: Leaf[Any], args: tuple[Any, ...]) -> Any:
        """Run a leaf there; see `Line.call`."""
        return self._line.call(leaf, args)

    @property
    def has_ended(self) -> bool:
        """Whether it is known to be gone."""
        return self._process is not None and self._process.has_ended

    @property
    def is_stopped(self) -> bool:
        """Whether it is known to be stopped by a signal."""
        return self._process is not None and self._process.is_stopped

    def kill(self) -> None:
        """End it, so that a call under way breaks; the process may take a moment."""
        self._line.hang_up()
        if self._process:
            self._process.kill()
        self.cluster.fire(self.number)

    def bury(self) -> bool:
        """End it, and tell whether it is sure to be gone: what it was at may then be written by another."""
        self.kill()
        self._line.close()
        return self._process is not None and self._process.end()


class Crew:
    """The workers: those that lanes have taken, and those that wait to be.

    Args:
        lanes: how many lanes will take one.
        segments: those that each worker maps in advance.
        away: why there is no cluster yet.
    """

    def __init__(self, lanes: int, segments: Sequence[str], away: Away) -> None:
        """Begin without a cluster, and so without workers."""
        self._lanes = lanes
        self._segments = segments
        self._changed = Condition()
        self._cluster: Cluster | None = None
        self._open = False
        self._away = away
        self._waiting: list[Worker] = []
        self._taken: list[Worker] = []
        self._hiring = 0
        self._error: Exception | None = None
        self._pause_until_s = 0.0

    @property
    def pids(self) -> list[int]:
        """Process ids of all."""
        with self._changed:
            return [worker.pid for worker in (*self._taken, *self._waiting)]

    @property
    def ready(self) -> int:
        """How many calls could be answered at once by workers that live and are not stopped."""
        with self._changed:
            workers = [*self._taken, *self._waiting]
        return min(self._lanes, sum(not (worker.has_ended or worker.is_stopped) for worker in workers))

    @property
    def away(self) -> Away | None:
        """Why there is no cluster; None if there is one."""
        with self._changed:
            return None if self._open else self._away

    def begin(self, cluster: Cluster) -> None:
        """Hire all on a cluster; whoever asks for one is told to wait until `open`."""
        with self._changed:
            self._cluster, self._open, self._error = cluster, False, None
            self._hiring, self._pause_until_s = 0, 0.0
            self._hire_missing()

    def is_warm(self) -> bool:
        """Whether all that were hired are there.

        Raises:
            EngineUnavailable: one of them cannot be started.
        """
        with self._changed:
            if self._error:
                raise EngineUnavailable(f"Ray cannot run workers on this node: {self._error}") from self._error
            return len(self._waiting) == self._lanes + _SPARES

    def open(self) -> None:
        """Give workers to who asks."""
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def end(self, away: Away) -> None:
        """End all workers, and let who asks for one know why there are none."""
        with self._changed:
            self._cluster, self._open, self._away = None, False, away
            lost = [*self._waiting, *self._taken]
            self._waiting.clear()
            self._taken.clear()
            self._changed.notify_all()
        for worker in lost:
            worker.kill()

    def tend(self) -> None:
        """Replace workers that have ended, and end those that have been stopped for long."""
        now_s = monotonic()
        with self._changed:
            for workers in (self._waiting, self._taken):
                for worker in [worker for worker in workers if worker.has_ended]:
                    logger.warning("worker %d has ended", worker.pid)
                    workers.remove(worker)
                    worker.cluster.fire(worker.number)
            self._hire_missing()
            workers = [*self._waiting, *self._taken]
        for worker in workers:
            if not worker.is_stopped:
                worker.stopped_since_s = None
                continue
            worker.stopped_since_s = worker.stopped_since_s or now_s
            if now_s > worker.stopped_since_s + _STOPPED_S:
                logger.warning("worker %d has been stopped for %g s and is ended", worker.pid, _STOPPED_S)
                worker.kill()

    def take(self, stop: Stop) -> Worker:
        """Take a waiting worker, or wait for one that is being started.

        Raises:
            EngineUnavailable: there is no cluster, or it starts none.
            Stopped: it took too long.
        """
        with self._changed:
            while True:
                if not self._open:
                    raise self._away.error()
                while self._waiting:
                    worker = self._waiting.pop()
                    if not worker.has_ended:
                        self._taken.append(worker)
                        return worker
                if self._error and not self._hiring:
                    raise EngineUnavailable(f"Ray cannot run workers on this node: {self._error}", retry_after_s=1)
                self._hire_missing()
                stop.check()
                self._changed.wait(_POLL_S)

    def lose(self, worker: Worker) -> None:
        """Make sure that a taken worker is gone, and start another in the background.

        Raises:
            WorkersLost: it may still run.
        """
        with self._changed:
            if worker in self._taken:
                self._taken.remove(worker)
            self._hire_missing()
        if not worker.bury():
            raise WorkersLost(f"worker {worker.pid} was lost and may still run", retry_after_s=1)

    def _hire_missing(self) -> None:
        """Start as many workers as are missing; not at once again where one could not be started."""
        cluster = self._cluster
        if cluster is None or monotonic() < self._pause_until_s:
            return
        missing = self._lanes + _SPARES - len(self._waiting) - len(self._taken) - self._hiring
        for _ in range(missing):
            self._hiring += 1
            Thread(target=self._hire, args=(cluster,), name="normtree-hire", daemon=True).start()

    def _hire(self, cluster: Cluster) -> None:
        worker, failed = None, None
        try:
            worker = Worker(cluster, self._segments)
        except (EngineUnavailable, LineBroken, OSError) as error:
            failed = error
        with self._changed:
            current = self._cluster is cluster
            self._hiring -= current
            if current and worker:
                self._waiting.append(worker)
                self._error = None
            elif current:
                self._error, self._pause_until_s = failed, monotonic() + _PAUSE_S
            self._changed.notify_all()
        if worker and not current:
            worker.kill()
