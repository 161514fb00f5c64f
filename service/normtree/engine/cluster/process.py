"""A process of this node that is not our child: to be ended, and known to have ended."""

import os
import signal
import weakref
from contextlib import suppress
from pathlib import Path
from select import POLLIN, poll
from typing import NamedTuple, Self

_END_TIMEOUT_MS = 10_000


class Status(NamedTuple):
    """What the kernel says of a process.

    Args:
        state: its letter in ``/proc``: ``R`` runs, ``S`` sleeps, ``T`` is stopped by a signal, ``Z`` has ended.
        group: id of its process group.
        session: id of its session.
    """

    state: str
    group: int
    session: int

    @property
    def has_ended(self) -> bool:
        """Whether nothing of it runs any more."""
        return self.state in "ZX"


class Process:
    """A handle of a process that no later process of the same id can be taken for.

    Args:
        pid: its id in this process's namespace.

    Raises:
        ProcessLookupError: there is none.
    """

    def __init__(self, pid: int) -> None:
        """Open the handle; it is closed when the object goes."""
        self.pid = pid
        self._handle = os.pidfd_open(pid)
        weakref.finalize(self, os.close, self._handle)

    @classmethod
    def find(cls, pid: int, namespace: int) -> Self | None:
        """Return the handle of a process; None if its id belongs to another namespace, so that it is not to be seen."""
        return cls(pid) if namespace == pid_namespace() else None

    def fileno(self) -> int:
        """What `select.poll` finds readable once it is gone."""
        return self._handle

    @property
    def has_ended(self) -> bool:
        """Whether it is gone."""
        return self._wait(0)

    @property
    def is_stopped(self) -> bool:
        """Whether a signal has stopped it, until another lets it go on."""
        status = status_of(self.pid)
        return status is not None and status.state == "T" and not self.has_ended

    def kill(self) -> None:
        """Kill it; it may take a moment."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handle, signal.SIGKILL)

    def end(self) -> bool:
        """Kill it and wait until it is gone; return whether it is."""
        self.kill()
        return self._wait(_END_TIMEOUT_MS)

    def _wait(self, timeout_ms: int) -> bool:
        gone = poll()
        gone.register(self._handle, POLLIN)
        return bool(gone.poll(timeout_ms))


def status_of(pid: int) -> Status | None:
    """Look at a process of this namespace; None if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return Status(fields[0], int(fields[2]), int(fields[3]))


def pid_namespace() -> int:
    """Return what tells the namespace of this process's id from others."""
    return Path("/proc/self/ns/pid").stat().st_ino
