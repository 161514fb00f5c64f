"""A session of processes: those that a child of ours has started, however deep, found and ended together."""

import os
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from typing import NamedTuple

from normtree.engine.cluster.process import Process, Status, status_of

_END_S = 10.0
_POLL_S = 0.01


class SessionMember(NamedTuple):
    """A process of a session.

    Args:
        process: its handle.
        status: what the kernel said of it.
        command: the words of its command line, or what it calls itself.
    """

    process: Process
    status: Status
    command: tuple[str, ...]


class Session:
    """The processes of a session.

    A process keeps its session when its parent ends, so that none is lost where a tree of processes falls apart. The
    number stays the session's as long as its leader has not been waited for.

    Args:
        leader: id of the process that began it.
    """

    def __init__(self, leader: int) -> None:
        """Look at nothing yet."""
        self._leader = leader

    def members(self) -> list[SessionMember]:
        """Those that live, but for this process."""
        found = (self._member(int(path.name)) for path in Path("/proc").iterdir() if path.name.isdecimal())
        return [member for member in found if member and not member.status.has_ended]

    def end(self) -> bool:
        """Kill them until none is left, those that are started meanwhile too; return whether none is."""
        killed: set[int] = set()
        end_s = monotonic() + _END_S
        while (left := self.members()) and monotonic() < end_s:
            for member in left:
                member.process.kill()
                killed.add(member.process.pid)
            sleep(_POLL_S)
        for pid in killed - {self._leader}:  # orphans are our children where this process is the first of a container
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        return not left

    def _member(self, pid: int) -> SessionMember | None:
        """Look at a process; its handle is opened first, so that both are of the same one."""
        if (found := status_of(pid)) is None or found.session != self._leader or pid == os.getpid():
            return None
        with suppress(OSError):
            process = Process(pid)
            command = tuple(Path(f"/proc/{pid}/cmdline").read_text(errors="replace").rstrip("\0 ").split("\0"))
            status = status_of(pid)
            if status and status.session == self._leader and not process.has_ended:
                return SessionMember(process, status, command)
        return None
