"""The Ray engine: leaves on warm actors of this node, one lane each, and a warm spare that takes a lost one's place.

Ray starts the workers, places them, watches them and ends them. Each runs one task for as long as it lives: to answer
the calls that come over its line. Tensors are not arguments: a call carries names, the worker attaches the segments
and works where the bytes are. So a call is small, and what it costs is one message there and one back.

A Ray that has lost one of its processes is none, even where its workers still answer: sooner or later it starts no
more of them, or ends its driver. So it is ended as a whole, and another is started; until then there is no engine here.
"""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from typing import Any, TypeVar

from normtree.engine.cluster.cluster import Cluster
from normtree.engine.cluster.line import LineBroken
from normtree.engine.cluster.own_folder import OwnFolder
from normtree.engine.cluster.ray_environment import FOLDER_WANTED
from normtree.engine.executor import Answers, Leaf
from normtree.engine.memory.arena import shared_memory
from normtree.engine.memory.stop import Stop
from normtree.engine.workers.crew import Away, Crew, Worker
from normtree.engine.workers.lanes import LaneLost, Lanes
from normtree.errors import EngineUnavailable

R = TypeVar("R")

RESTART_S = 60.0
_LOOK_S = 0.25
_STARVED_S = 60.0
_FIRST_START_S = 10.0  # what a start is taken to last, before there has been one
_PREFIX = "ntray-"
_LINES_PREFIX = "ntlines-"
_PLACE_LENGTH = 26  # Ray's sockets lie below, whose paths may have 107 characters

logger = logging.getLogger(__name__)


class RayExecutor:
    """Runs leaves on a Ray cluster: an embedded local one, or one that is there already and has a node here.

    Args:
        workers: leaves at once.
        address: address of a cluster with a node on this machine; None starts an embedded local one.
        segments: those that workers attach in advance.
        restart_s: seconds from one restart to the next, at least, where Ray is lost; the first is at once.

    Raises:
        EngineUnavailable: Ray cannot be started or reached, or has no node here.
    """

    in_process = False

    def __init__(
        self, workers: int, address: str | None = None, segments: Sequence[str] = (), restart_s: float = RESTART_S
    ) -> None:
        """Connect, and warm a process for each worker and a spare one."""
        self._workers, self._address, self._restart_s = workers, address, restart_s
        self._start_s, self._restart_at_s = _FIRST_START_S, monotonic()
        self._version, self._nodes = "", 0
        self._starts = self._opened = 0
        self._closing, self._decided = Event(), Event()
        try:
            self._folder = OwnFolder(_place(), _PREFIX)
            self._lines = OwnFolder(shared_memory(), _LINES_PREFIX)
        except OSError as error:
            raise EngineUnavailable(f"Ray cannot keep its files: {error}; {FOLDER_WANTED}") from error
        self._crew = Crew(workers, segments, Away("it has not been started", datetime.now(UTC), monotonic()))
        self._lanes = Lanes([_RayLane(self._crew) for _ in range(workers)], in_process=False)
        self._keeper = Thread(target=self._keep, name="normtree-ray", daemon=True)
        self._keeper.start()
        try:
            self._decided.wait()
            if away := self._crew.away:
                raise EngineUnavailable(away.why)
        except BaseException:
            self.close()
            raise

    @property
    def is_away(self) -> bool:
        """Whether there is no cluster now."""
        return self._crew.away is not None

    def check_there(self) -> None:
        """Refuse work that could not be done now.

        Raises:
            EngineUnavailable: Ray is away.
        """
        if away := self._crew.away:
            raise away.error()

    @property
    def workers_ready(self) -> int:
        """How many leaves could run at once now: workers that live and are not stopped."""
        return 0 if self.is_away else self._crew.ready

    @property
    def restarts(self) -> int:
        """How often Ray has been started anew, since it was lost."""
        return max(0, self._opened - 1)

    def info(self) -> dict[str, object]:
        """What ``/v1/info`` tells of the cluster."""
        away = self._crew.away
        return {
            "version": self._version,
            "nodes": 0 if away else self._nodes,
            "up": away is None,
            "away_since": away.since.isoformat(timespec="seconds") if away else None,
            "away_because": away.why if away else None,
            "restarts": self.restarts,
        }

    def worker_pids(self) -> list[int]:
        """Process ids of the workers that live, spare ones included."""
        return self._crew.pids

    def run(
        self,
        leaf: Leaf[R],
        calls: Iterable[tuple[Any, ...]],
        *,
        workers: int,
        stop: Stop,
    ) -> Answers[R]:
        """Run one phase; see `normtree.engine.executor.Executor.run`.

        Raises:
            EngineUnavailable: Ray is away, or starts no workers any more.
        """
        return self._lanes.run(leaf, calls, workers=workers, stop=stop)

    def close(self) -> None:
        """Leave the cluster; workers end with it, and an embedded one itself."""
        self._closing.set()
        self._keeper.join()
        self._lanes.close()
        self._folder.close()
        self._lines.close()

    def _keep(self) -> None:
        """Have a cluster, and another where it is lost; where the first cannot be had, leave it at that."""
        while not self._closing.is_set():
            why = self._have_cluster(monotonic())
            if not self._opened or self._closing.wait(max(0.0, self._restart_at_s - monotonic())):
                break
            self._restart_at_s = monotonic() + self._restart_s
            logger.warning("starting Ray anew, since %s", why)
        self._decided.set()

    def _have_cluster(self, began_s: float) -> str:
        """Start or join a cluster, and stay with it until it is lost; return why it was, or could not be had."""
        cluster = None
        logger.info("connecting to Ray: %s", self._address or "an embedded one")
        try:
            cluster = Cluster(self._workers, self._address, self._session_folder(), self._lines.path)
            cluster.wait(self._closing)
            self._crew.begin(cluster)
            why = self._warm(cluster)
            if not why:
                self._open(cluster, began_s)
                why = self._watch(cluster)
        except EngineUnavailable as error:
            why = error.detail
        except Exception as error:  # whatever it is, the next cluster may do without it
            logger.exception("Ray cannot be kept")
            why = f"Ray cannot be kept: {error}"
        self._crew.end(self._away(why))
        if not self._closing.is_set():
            logger.error("Ray is away: %s", why)
        if cluster:
            cluster.end()
        return why

    def _warm(self, cluster: Cluster) -> str | None:
        """Wait until the workers are warm; return what came between."""
        while not self._crew.is_warm():
            if lost := self._lost(cluster):
                return lost
        return None

    def _open(self, cluster: Cluster, began_s: float) -> None:
        """Take work."""
        self._version, self._nodes = cluster.version, cluster.nodes
        self._start_s = monotonic() - began_s
        self._opened += 1
        self._crew.open()
        self._decided.set()

    def _watch(self, cluster: Cluster) -> str:
        """Stay with a cluster until it is lost, and return why it is."""
        ready_s = monotonic()
        while not (lost := self._lost(cluster)):
            self._nodes = cluster.nodes
            self._crew.tend()
            if self._crew.ready:
                ready_s = monotonic()
            elif monotonic() > ready_s + _STARVED_S:
                return f"no worker lives, and in {_STARVED_S:g} s none was started"
        return lost

    def _lost(self, cluster: Cluster) -> str | None:
        """Wait a moment, and return why a cluster is lost; None if it is not."""
        if self._closing.is_set():
            return "the service ends"
        part = cluster.lost_part(_LOOK_S)
        return f"its process {part} has ended" if part else None

    def _away(self, why: str) -> Away:
        """Tell that Ray is away, since when, and when it may be there again."""
        before = self._crew.away
        since = before.since if before else datetime.now(UTC)
        return Away(why, since, max(monotonic(), self._restart_at_s) + self._start_s)

    def _session_folder(self) -> Path:
        """Make a folder for a cluster's files; of those before only the last one's stay, for they tell why it ended."""
        self._starts += 1
        shutil.rmtree(self._folder.path / str(self._starts - 2), ignore_errors=True)
        folder = self._folder.path / str(self._starts)
        folder.mkdir(mode=0o700)
        return folder


class _RayLane:
    """A lane over a worker of the crew."""

    def __init__(self, crew: Crew) -> None:
        """Begin without a worker; the first call takes one."""
        self._crew = crew
        self._worker: Worker | None = None

    def call(self, leaf: Leaf[Any], args: tuple[Any, ...], stop: Stop) -> Any:
        """Run a leaf on the lane's worker, or on another one where that has ended."""
        if self._worker is None or self._worker.has_ended:
            self._worker = self._crew.take(stop)
        worker = self._worker
        try:
            return worker.call(leaf, args)
        except LineBroken as error:
            logger.warning("lost worker %d", worker.pid)
            self._worker = None
            self._crew.lose(worker)
            raise LaneLost from error

    def kill(self) -> None:
        """End the worker under way."""
        if worker := self._worker:
            worker.kill()

    def close(self) -> None:
        """Leave the worker to the crew."""


def _place() -> Path:
    """Where to keep the files of clusters that we start: where Ray would, but for paths that were too long for it."""
    place = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
    return place if len(str(place)) <= _PLACE_LENGTH else Path("/tmp")
