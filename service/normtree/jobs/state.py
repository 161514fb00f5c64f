"""The folder beside an output where its job keeps its journal, and the lock that keeps other jobs out of it."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from normtree.errors import JobConflict, StorageFailed
from normtree.jobs.local import sync
from normtree.jobs.places import told

SUFFIX = ".normtree"


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

    def append(self, name: str, data: bytes) -> None:
        """Add to a file, and wait until it is safe."""

    def remove(self, name: str) -> None:
        """Remove a file that may be there."""

    def lock(self) -> AbstractContextManager[None]:
        """Keep other jobs out while the context lasts.

        Raises:
            JobConflict: another job is in it.
        """


@dataclass(frozen=True)
class LocalState:
    """A folder of this machine, or of a disk that all nodes share."""

    url: str

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes; None where there is none."""
        path = Path(self.url) / name
        with told(str(path)):
            return path.read_bytes() if path.exists() else None

    def names(self, folder: str) -> list[str]:
        """Name the files of a folder in it, but for those that are being written."""
        path = Path(self.url) / folder
        with told(str(path)):
            found = os.listdir(path) if path.is_dir() else []
        return sorted(f"{folder}/{name}" for name in found if not name.startswith("."))

    def write(self, name: str, data: bytes) -> None:
        """Write a file beside its place and rename it."""
        path = Path(self.url) / name
        with told(str(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = path.with_name(f".{path.name}.partial")
            beside.write_bytes(data)
            sync(str(beside))
            beside.replace(path)
            sync(str(path.parent))

    def append(self, name: str, data: bytes) -> None:
        """Add to a file, on a line of its own where a killed job has left half of one."""
        path = Path(self.url) / name
        with told(str(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab+") as file:
                if file.tell() and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n":
                    file.write(b"\n")
                file.write(data)
                file.flush()
                os.fsync(file.fileno())

    def remove(self, name: str) -> None:
        """Remove a file that may be there."""
        path = Path(self.url) / name
        with told(str(path)):
            path.unlink(missing_ok=True)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder's lock, which the system gives back when a process ends, however it ends."""
        path = Path(self.url) / "lock"
        with told(str(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise JobConflict(f"{self.url}: another run is writing this output; wait for it, or end it") from None
            except OSError as error:
                raise StorageFailed(
                    f"{path}: cannot be locked, so another run could write this output too: {error.strerror}; "
                    "put the output on a disk that has locks (Lustre has them where mounted with `flock`)"
                ) from error
            yield
        finally:
            os.close(descriptor)
