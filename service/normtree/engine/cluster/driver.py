"""The Ray driver: a process of its own, which is a child of the service and the only one that talks to Ray.

A driver that has lost its cluster is ended by Ray's own code, a minute later and without a word to Python. So the
service is none: its driver may end, or be ended, and the service starts another. What the driver has started ends
with it, also where the service itself was killed.
"""

import os
import shutil
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from threading import Event, Lock, Thread, Timer
from typing import Any, NoReturn

import ray
from ray.job_config import JobConfig
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

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
from normtree.engine.cluster.host import Host
from normtree.engine.cluster.session import Session

_STORE_BYTES = 256 * 2**20  # calls are small: nothing of a tensor goes through Ray's store
_WARM_S = 300.0
_LOOK_S = 10.0
_LEAVE_S = 5.0


class Driver:
    """The driver's side of its channel to the service.

    Args:
        channel: to the service; when that closes it, or ends, this process ends, and all that it has started.
    """

    def __init__(self, channel: "Connection[FromDriver, ToDriver]") -> None:
        """Read what to connect to."""
        self._channel = channel
        self._sending = Lock()
        self._connected = Event()
        self._workers: dict[int, Any] = {}
        message = channel.recv()
        if not isinstance(message, Connect):
            raise TypeError(f"message: wanted Connect first, got {message!r}")
        self._connect = message
        self._service = message.service

    def run(self) -> NoReturn:
        """Connect, and tell how many nodes there are, while a thread listens to the service; never returns."""
        Thread(target=self._listen, daemon=True).start()
        try:
            _connect(self._connect)
        except Exception as error:  # whatever Ray raises: the service is to hear of it
            self._tell(Failed(None, f"{error}" or type(error).__name__))
            self._end()
        self._tell(Connected(ray.__version__, _nodes()))
        self._connected.set()
        while True:
            Event().wait(_LOOK_S)
            with suppress(ray.exceptions.RayError, RuntimeError):
                self._tell(Nodes(_nodes()))

    def _listen(self) -> None:
        """Do what the service says, until it says no more."""
        with suppress(EOFError, OSError):
            while True:
                message = self._channel.recv()
                work = self._hire if isinstance(message, Hire) else self._fire
                Thread(target=work, args=(message,), daemon=True).start()
        self._end()

    def _hire(self, hire: Hire) -> None:
        """Have Ray start a worker, and tell when it is warm and listens."""
        try:
            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
            # A worker stays for good: counted as a CPU it would leave none to other work on the cluster.
            worker: Any = ray.remote(num_cpus=0, max_restarts=0, scheduling_strategy=here)(Host)  # type: ignore[call-overload]
            actor = self._workers[hire.number] = worker.remote(hire.key, hire.folder, hire.segments)
            identity = ray.get(actor.identity.remote(), timeout=_WARM_S)
            actor.answer.remote()
        except Exception as error:  # whatever Ray raises: the service is to hear of it
            self._fire(Fire(hire.number))
            self._tell(Failed(hire.number, f"{error}" or type(error).__name__))
        else:
            self._tell(Hired(hire.number, *identity))

    def _fire(self, fire: Fire) -> None:
        """End a worker."""
        if actor := self._workers.pop(fire.number, None):
            with suppress(Exception):  # it has ended already, or Ray has
                ray.kill(actor, no_restart=True)

    def _tell(self, message: FromDriver) -> None:
        with self._sending, suppress(OSError):  # the service has ended: so will this process
            self._channel.send(message)

    def _end(self) -> NoReturn:
        """End this process, and all that it has started."""
        if self._connect.address and self._connected.is_set():
            Timer(_LEAVE_S, self._vanish).start()
            ray.shutdown()  # the cluster lives on, and is told
        self._vanish()

    def _vanish(self) -> NoReturn:
        Session(os.getsid(0)).end()
        if os.getppid() != self._service:  # it was killed, and cleans up no more
            for folder in self._connect.folders:
                shutil.rmtree(folder, ignore_errors=True)
        os._exit(0)


def own_modules() -> JobConfig:
    """Return what keeps a driver's working folder off its workers' module paths.

    Ray puts it before all else, and a file of any library's name there would be run in that library's place. Of Ray's
    own switches only the one for drivers that are elsewhere leaves it out.
    """
    return JobConfig(_client_job=True)


def _connect(what: Connect) -> None:
    """Start a cluster, or join one."""
    if what.address:
        ray.init(address=what.address, job_config=own_modules(), configure_logging=False, log_to_driver=False)
        return
    ray.init(
        address="local",
        num_cpus=what.workers,
        job_config=own_modules(),
        object_store_memory=_STORE_BYTES,
        include_dashboard=False,
        configure_logging=False,
        log_to_driver=False,
        _temp_dir=what.folder,
    )


def _nodes() -> int:
    return sum(bool(node["Alive"]) for node in ray.nodes())  # type: ignore[no-untyped-call]


def main() -> NoReturn:
    """Be the driver of the service at the other end of the descriptor that is the only argument."""
    descriptor = int(sys.argv[1])
    os.set_inheritable(descriptor, False)
    Driver(Connection(descriptor)).run()
