"""A Ray cluster as the service sees it: a driver in a child process, and what must live for the cluster to work."""

import itertools
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from select import POLLIN, poll
from socket import create_connection
from threading import Event, Lock, Thread
from time import monotonic

from normtree.engine.cluster.driver_messages import (
    Connect,
    Connected,
    Failed,
    Fire,
    FromDriver,
    Hire,
    Hired,
    Nodes,
    ToDriver,
)
from normtree.engine.cluster.line import hang_up
from normtree.engine.cluster.process import Process, pid_namespace
from normtree.engine.cluster.ray_environment import ray_environment
from normtree.engine.cluster.session import Session, SessionMember
from normtree.errors import EngineUnavailable

_DRIVER = "from normtree.engine.cluster.driver import main; main()"
_REACH_S = 5.0
_START_S, _JOIN_S = 120.0, 60.0
_WARM_S = 310.0
_LEAVE_S = 6.0
_POLL_S = 0.1
_WORKER = "default_worker"
_SCRIPT_WORDS = 4  # of a command line; what comes later are arguments, which name scripts too
_TITLE = "ray::"
_AGENT = "Agent"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClusterProcess:
    """A process without which a cluster is none.

    Args:
        name: what it is called.
        process: its handle.
    """

    name: str
    process: Process


class Cluster:
    """A cluster, started or joined by a driver of its own. Whoever makes one ends it.

    Attributes:
        version: of Ray; empty until it is there.
        nodes: how many it has, as of some seconds ago.
    """

    def __init__(self, workers: int, address: str | None, folder: Path, lines: Path) -> None:
        """Begin to connect.

        Args:
            workers: CPUs of a cluster that is started.
            address: of a cluster with a node on this machine; None starts one.
            folder: for the files of a cluster that is started; its parent is this process's own.
            lines: folder of this process's own, where workers listen.

        Raises:
            EngineUnavailable: nobody listens at the address.
        """
        self.version, self.nodes = "", 0
        self._where = address or "an embedded cluster"
        self._address = address
        self._lines = str(lines)
        self._numbers = itertools.count()
        self._hires: dict[int, Future[Hired]] = {}
        self._connected: Future[Connected] = Future()
        self._lock, self._sending = Lock(), Lock()
        if address:
            self._reach(address)
        self._channel, self._child = _start_driver(address, folder / "driver.log")
        self._session = Session(self._child.pid)
        self._parts = [ClusterProcess("driver", Process(self._child.pid))]
        Thread(target=self._listen, name="normtree-driver", daemon=True).start()
        self._send(Connect(workers, address, str(folder), os.getpid(), (str(folder.parent), str(lines))))

    def wait(self, given_up: Event) -> None:
        """Wait until the cluster is there.

        Args:
            given_up: set from another thread, it ends the wait.

        Raises:
            EngineUnavailable: it cannot be started or reached, or has no node here.
        """
        bound_s = _JOIN_S if self._address else _START_S
        end_s = monotonic() + bound_s
        while not self._connected.done():
            if given_up.is_set():
                raise self._unavailable("nobody waits for it any more")
            if monotonic() > end_s:
                raise self._unavailable(f"no cluster in {bound_s:g} s")
            with suppress(FutureTimeoutError):
                self._connected.exception(_POLL_S)
        connected = self._connected.result()
        self.version, self.nodes = connected.version, connected.nodes
        if self._address is None:
            own = [each for each in self._session.members() if each.process.pid != self._child.pid]
            with self._lock:
                self._parts += [_part(member) for member in own if _is_part(member)]

    def hire(self, key: bytes, segments: Sequence[str]) -> Hired:
        """Have a worker started; blocks until it is warm.

        Args:
            key: of the line to it.
            segments: that it maps in advance.

        Raises:
            EngineUnavailable: Ray does not start it.
        """
        number = next(self._numbers)
        with self._lock:
            future = self._hires[number] = Future()
        self._send(Hire(number, key, self._lines, segments))
        try:
            hired = future.result(_WARM_S)
        except FutureTimeoutError:
            self.fire(number)
            raise self._unavailable(f"no worker after {_WARM_S:g} s") from None
        self._watch_node(hired)
        return hired

    def fire(self, number: int) -> None:
        """End a worker, or have Ray forget it."""
        with suppress(EngineUnavailable):
            self._send(Fire(number))

    def parts(self) -> tuple[ClusterProcess, ...]:
        """The processes that must live, and can be seen from here."""
        with self._lock:
            return tuple(self._parts)

    def lost_part(self, wait_s: float) -> str | None:
        """Return the name of a process that has ended; None if after a while there is none."""
        parts = self.parts()
        gone = poll()
        for part in parts:
            gone.register(part.process, POLLIN)
        ended = {descriptor for descriptor, _ in gone.poll(1e3 * wait_s)}
        names = [part.name for part in parts if part.process.fileno() in ended]
        return names[-1] if names else None  # the driver is the first, and may have ended because another has

    def end(self) -> None:
        """Leave a cluster that was joined, end one that was started, and wait until no process of it is left."""
        hang_up(self._channel)
        if self._address:
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(_LEAVE_S)
        if not self._session.end():
            logger.error("processes of Ray cannot be ended")
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(_LEAVE_S)
        self._fail("the cluster has ended")

    def _listen(self) -> None:
        """Hear what the driver tells, until it has ended."""
        with suppress(EOFError, OSError):
            while True:
                message = self._channel.recv()
                if isinstance(message, Connected):
                    self._connected.set_result(message)
                elif isinstance(message, Nodes):
                    self.nodes = message.count
                elif message.number is None:
                    self._connected.set_exception(self._unavailable(message.why))
                else:
                    self._settle(message.number, message)
        self._channel.close()
        self._fail("its driver has ended")

    def _settle(self, number: int, message: Hired | Failed) -> None:
        with self._lock:
            future = self._hires.pop(number, None)
        if future is None:
            self.fire(number)  # nobody waits for it any more
        elif isinstance(message, Hired):
            future.set_result(message)
        else:
            future.set_exception(self._unavailable(message.why))

    def _fail(self, why: str) -> None:
        """Tell all who wait for the driver that they wait in vain."""
        with self._lock:
            hires = list(self._hires.values())
            self._hires.clear()
        for future in (self._connected, *hires):
            with suppress(InvalidStateError):  # it has its result
                future.set_exception(self._unavailable(why))  # type: ignore[attr-defined]  # of futures of two types

    def _send(self, message: ToDriver) -> None:
        try:
            with self._sending:
                self._channel.send(message)
        except OSError as error:
            raise self._unavailable("its driver has ended") from error

    def _watch_node(self, hired: Hired) -> None:
        """Of a cluster that was joined, only the raylet of this node can be seen: it is its workers' parent."""
        with self._lock:
            known = {part.process.pid for part in self._parts}
            if hired.parent not in known and hired.namespace == pid_namespace():
                with suppress(ProcessLookupError):
                    self._parts.append(ClusterProcess("raylet", Process(hired.parent)))

    def _reach(self, address: str) -> None:
        """Find out soon whether anybody listens there, where it is a host's address: Ray itself would try for long."""
        host, _, port = address.rpartition(":")
        if host and port.isdecimal():
            try:
                create_connection((host.strip("[]"), int(port)), timeout=_REACH_S).close()
            except OSError as error:
                raise self._unavailable(error.strerror or str(error)) from error

    def _unavailable(self, why: str) -> EngineUnavailable:
        return EngineUnavailable(f"Ray at {self._where}: {why}", retry_after_s=1)


def _start_driver(address: str | None, log: Path) -> "tuple[Connection[ToDriver, FromDriver], subprocess.Popen[bytes]]":
    """Start a driver in a session of its own: what ends this process's group does not end it before its time."""
    ours, theirs = Pipe()
    with theirs, log.open("ab") as sink:
        child = subprocess.Popen(
            [sys.executable, "-P", "-c", _DRIVER, str(theirs.fileno())],
            env=ray_environment(os.environ, embedded=address is None),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    return ours, child


def _is_part(member: SessionMember) -> bool:
    """Whether a process is the cluster's own, and no worker: those come and go, and lead groups of their own."""
    title = member.command[0]
    is_worker = (title.startswith(_TITLE) and not title.endswith(_AGENT)) or _script(member.command) == _WORKER
    return member.status.group == member.status.session and not is_worker


def _part(member: SessionMember) -> ClusterProcess:
    """Name a part as Ray does: by its title, its script or its program."""
    name = _script(member.command) or Path(member.command[0]).name
    return ClusterProcess(name.removeprefix(_TITLE), member.process)


def _script(command: Sequence[str]) -> str | None:
    """The name of the last script that Python runs, one by the other; None where it is another program."""
    scripts = [Path(word).stem for word in command[1:_SCRIPT_WORDS] if word.endswith(".py")]
    return scripts[-1] if scripts else None
