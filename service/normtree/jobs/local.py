"""Folders of this machine, or of a disk that all nodes share."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from normtree.errors import StorageFailed
from normtree.jobs.places import Stat, told

_COPY_BYTES = 1 << 22
_RANGE_BYTES = 1 << 30


@dataclass(frozen=True)
class LocalFolder:
    """A folder.

    Args:
        path: its absolute path.
        only: the name that a single file has here, whatever its name in the input is.

    Files are read by ``pread`` into buffers that are used again, not mapped: a disk's error or a file that shrinks is
    then an error that can be told, and not the end of the process.
    """

    path: str
    only: str | None = None

    streams = False

    @property
    def url(self) -> str:
        """The path."""
        return self.path

    def names(self) -> tuple[str, ...]:
        """Name the files in the folder and below, sorted."""
        if not Path(self.path).is_dir():
            raise StorageFailed(f"{self.path}: no such folder")
        found = [
            os.path.relpath(Path(folder) / name, self.path) for folder, _, names in os.walk(self.path) for name in names
        ]
        return tuple(sorted(found))

    def stat(self, name: str) -> Stat:
        """Tell a file's size and when it was changed."""
        with told(self._at(name)):
            found = Path(self._at(name)).stat()
        return Stat(found.st_size, str(found.st_mtime_ns))

    @contextmanager
    def reader(self, name: str) -> Iterator["LocalReader"]:
        """Open a file for reading."""
        where = self._at(name)
        with told(where):
            descriptor = os.open(where, os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield LocalReader(descriptor, where)
        finally:
            os.close(descriptor)

    def create(self, name: str, size: int) -> None:
        """Make a hidden file of that size beside the place of the one that is to be."""
        beside = self._beside(name)
        with told(beside):
            Path(beside).parent.mkdir(parents=True, exist_ok=True)
            with open(beside, "wb") as file:
                file.truncate(size)

    @contextmanager
    def sink(self, name: str, size: int) -> Iterator["LocalSink"]:
        """Open a file that was created."""
        beside = self._beside(name)
        with told(beside):
            descriptor = os.open(beside, os.O_WRONLY | os.O_CLOEXEC)
        try:
            yield LocalSink(descriptor, beside)
        finally:
            with told(beside):
                os.close(descriptor)  # a shared disk may tell of its errors only now

    def finish(self, name: str) -> None:
        """Sync a file, rename it into place, and sync the folder that names it."""
        beside, place = self._beside(name), self._at(name)
        with told(place):
            sync(beside)
            Path(beside).replace(place)
            sync(str(Path(place).parent))

    def discard(self, name: str) -> None:
        """Remove the hidden file of an earlier attempt."""
        with suppress(FileNotFoundError), told(self._beside(name)):
            Path(self._beside(name)).unlink(missing_ok=True)

    def free_bytes(self) -> int:
        """Tell the room left on the disk that holds the folder, or will."""
        folder = Path(self.path)
        while not folder.exists():
            folder = folder.parent
        with told(str(folder)):
            return shutil.disk_usage(folder).free

    def _at(self, name: str) -> str:
        return str(Path(self.path) / (self.only or name))

    def _beside(self, name: str) -> str:
        place = Path(self._at(name))
        return str(place.with_name(f".{place.name}.partial"))


@dataclass(frozen=True)
class LocalReader:
    """A file descriptor, and the file's name for errors."""

    descriptor: int
    where: str

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill a buffer with the file's bytes from ``start`` on."""
        done = 0
        while done < len(buffer):
            with told(self.where):
                count = os.preadv(self.descriptor, [buffer[done:]], start + done)
            if count == 0:
                raise StorageFailed(
                    f"{self.where}: truncated while it was read: wanted {len(buffer)} bytes at {start}, got {done}"
                )
            done += count


@dataclass(frozen=True)
class LocalSink:
    """A file descriptor, and the file's name for errors."""

    descriptor: int
    where: str

    def write(self, start: int, data: memoryview) -> None:
        """Put bytes where they belong."""
        done = 0
        with told(self.where):
            while done < len(data):
                done += os.pwrite(self.descriptor, data[done:], start + done)

    def copy(self, reader: object, start: int, stop: int) -> None:
        """Copy a range inside the kernel where it can, through a buffer where it cannot."""
        if isinstance(reader, LocalReader):
            with suppress(OSError):  # another file system, or one that has no such call
                start = self._copy_range(reader.descriptor, start, stop)
        buffer = memoryview(bytearray(min(_COPY_BYTES, stop - start)))
        while start < stop:
            part = buffer[: min(len(buffer), stop - start)]
            reader.read_into(start, part)  # type: ignore[attr-defined]
            self.write(start, part)
            start += len(part)

    def sync(self) -> None:
        """Wait until all that was written is on the disk."""
        with told(self.where):
            os.fsync(self.descriptor)

    def _copy_range(self, source: int, start: int, stop: int) -> int:
        while start < stop:
            count = os.copy_file_range(source, self.descriptor, min(_RANGE_BYTES, stop - start), start, start)
            if count == 0:
                break
            start += count
        return start


def sync(path: str) -> None:
    """Wait until a file, or what a folder names, is on its disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
