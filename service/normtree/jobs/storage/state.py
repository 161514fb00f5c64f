"""The folder beside an output where its job keeps its journal, and the lock that keeps other jobs out of it."""

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

from normtree.errors import JobConflict, StorageFailed
from normtree.files.enclosure import Enclosure
from normtree.jobs.storage.places import told

SUFFIX = ".normtree"
LOCK = "lock"


class State(Protocol):
    """A small folder of small files."""

    @property
    def url(self) -> str:
        """Its name, as a person would write it."""

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes; None where there is none."""

    def names(self, folder: str) -> list[str]:
        """Name the files of a folder in it, as `read` wants them, sorted; none where there is no such folder."""

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole, or not at all."""

    def append(self, name: str, data: bytes, after: int) -> None:
        """Add to a file of ``after`` bytes, and wait until it is safe.

        Raises:
            JobConflict: it has another size: somebody has removed or changed it.
        """

    def remove(self, name: str) -> None:
        """Remove a file that may be there."""

    def lock(self) -> AbstractContextManager[None]:
        """Keep other jobs out while the context lasts.

        Raises:
            JobConflict: another job is in it.
        """


@dataclass(frozen=True)
class LocalState:
    """A folder of this machine, or of a disk that all nodes share; no link in it is followed.

    Args:
        url: its absolute path, without links.
        mode: its permissions where it comes to be.
    """

    url: str
    mode: int = field(default=0o777, kw_only=True, repr=False)

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes; None where there is none."""
        with told(f"{self.url}/{name}"):
            return self._inside.read(name)

    def names(self, folder: str) -> list[str]:
        """Name the files of a folder in it, but for those that are being written."""
        with told(f"{self.url}/{folder}"):
            try:
                found = Enclosure(f"{self.url}/{folder}").names()
            except FileNotFoundError:
                return []
        return [f"{folder}/{name}" for name in found if not name.startswith(".")]

    def write(self, name: str, data: bytes) -> None:
        """Write a file beside its place and rename it."""
        with told(f"{self.url}/{name}"):
            self._inside.write(name, data)

    def append(self, name: str, data: bytes, after: int) -> None:
        """Add to a file."""
        with told(f"{self.url}/{name}"):
            there = self._inside.stat(name)
            found = there.st_size if there else 0
            if found != after:
                raise gone(f"{self.url}/{name}", found, after)
            with open(self._opened(name, os.O_RDWR), "r+b") as file:
                file.seek(after)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())

    def remove(self, name: str) -> None:
        """Remove a file that may be there."""
        with told(f"{self.url}/{name}"):
            self._inside.remove(name)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder's lock, which the system gives back when a process ends, however it ends."""
        with told(f"{self.url}/{LOCK}"):
            descriptor = self._opened(LOCK, os.O_RDWR)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise JobConflict(
                    f"{self.url}: another run is writing this output, or reading it; wait for it, or end it"
                ) from None
            except OSError as error:
                raise StorageFailed(
                    f"{self.url}/{LOCK}: cannot be locked, so another run could write this output too: "
                    f"{error.strerror}; put the output on a disk that has locks (Lustre has them where mounted with "
                    "`flock`)"
                ) from error
            yield
        finally:
            os.close(descriptor)

    @property
    def _inside(self) -> Enclosure:
        return Enclosure(self.url, {"": self.mode, "aggregates": self.mode})

    def _opened(self, name: str, flags: int) -> int:
        """Open a file, and make it where there is none."""
        try:
            return self._inside.open(name, flags)
        except FileNotFoundError:
            with suppress(FileExistsError):
                return self._inside.create(name)
            return self._inside.open(name, flags)


@contextmanager
def nobody_writes(states: Iterable[str]) -> Iterator[None]:
    """Keep jobs out of folders that this one reads, or lies in, or that lie in it, while the context lasts.

    Args:
        states: folders of jobs' states that may be there.

    Raises:
        JobConflict: a job is in one of them.
    """
    with ExitStack() as held:
        for state in states:
            descriptor = -1
            with suppress(OSError):  # there is none, or none that we may read
                descriptor = Enclosure(state).open(LOCK)
            if descriptor < 0:
                continue
            held.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                output = state.removesuffix(SUFFIX)
                raise JobConflict(f"{output}: another run is writing it; wait for it, or end it") from None
            except OSError:  # a disk without locks
                continue
        yield


def gone(where: str, found: int, wanted: int) -> JobConflict:
    """Return the error for a file of the state that somebody else has touched."""
    return JobConflict(
        f"{where}: removed or changed while the job ran: wanted {wanted:,} bytes, got {found:,}; "
        "remove what is left of it, and the output, to begin anew"
    )
