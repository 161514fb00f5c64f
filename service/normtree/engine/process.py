"""A process of this node that is not our child: to be ended, and known to have ended."""

import os
import signal
import weakref
from contextlib import suppress
from pathlib import Path
from select import POLLIN, poll
from typing import Self

_END_TIMEOUT_MS = 10_000


class Process:
    """A handle of a process that no later process of the same id can be taken for.

    Args:
        pid: its id in this process's namespace.

    Raises:
        ProcessLookupError: there is none.
    """

    def __init__(self, pid: int) -> None:
        """Open the handle; it is closed when the object goes."""
        self._handle = os.pidfd_open(pid)
        weakref.finalize(self, os.close, self._handle)

    @classmethod
    def find(cls, pid: int, namespace: int) -> Self | None:
        """Return the handle of a process; None if its id belongs to another namespace, so that it is not to be seen."""
        return cls(pid) if namespace == pid_namespace() else None

    @property
    def has_ended(self) -> bool:
        """Whether it is gone."""
        return self._wait(0)

    def end(self) -> bool:
        """Kill it and wait until it is gone; return whether it is."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handle, signal.SIGKILL)
        return self._wait(_END_TIMEOUT_MS)

    def _wait(self, timeout_ms: int) -> bool:
        gone = poll()
        gone.register(self._handle, POLLIN)
        return bool(gone.poll(timeout_ms))


def pid_namespace() -> int:
    """Return what tells the namespace of this process's id from others."""
    return Path("/proc/self/ns/pid").stat().st_ino
