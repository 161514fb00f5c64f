"""Folders of this machine, or of a disk that all nodes share."""

import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from normtree.errors import JobConflict, StorageFailed
from normtree.files.enclosure import Enclosure, check_file, hidden
from normtree.jobs.storage.places import Proof, Stat, told
from normtree.jobs.storage.proof import digest_of

REPLACED = "replaced"
_COPY_BYTES = 1 << 22
_RANGE_BYTES = 1 << 30
_OWNER = 0o600  # of a file while it is written


@dataclass(frozen=True)
class LocalFolder:
    """A folder.

    Args:
        path: its absolute path, without links.
        only: the name that a single file has here, whatever its name in the input is.
        listed: of an input, where its files really are, by name, links followed; None: all is below ``path``.
        folder_modes: permissions of folders that come to be, as `Enclosure` has them.

    Files are read by ``pread`` into buffers that are used again, not mapped: a disk's error or a file that shrinks is
    then an error that can be told, and not the end of the process. No link is followed any more.
    """

    path: str
    only: str | None = None
    listed: Mapping[str, str] | None = field(default=None, kw_only=True, repr=False)
    folder_modes: Mapping[str, int] | None = field(default=None, kw_only=True, repr=False)

    streams = False

    @property
    def url(self) -> str:
        """The path."""
        return self.path

    def names(self) -> tuple[str, ...]:
        """Name the files in the folder and below, sorted."""
        if self.listed is not None:
            return tuple(sorted(self.listed))
        try:
            with told(self.path):
                return tuple(self._inside.names())
        except StorageFailed as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise StorageFailed(f"{self.path}: no such folder") from None
            raise

    def stat(self, name: str) -> Stat:
        """Tell a file's size and when it was changed."""
        inside, name = self._at(name)
        with told(f"{inside.path}/{name}"):
            found = inside.stat(name)
            if found is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            check_file(found)
        return _stat(found)

    @contextmanager
    def reader(self, name: str) -> Iterator["LocalReader"]:
        """Open a file for reading."""
        inside, name = self._at(name)
        where = f"{inside.path}/{name}"
        with told(where):
            descriptor = inside.open(name)
        try:
            yield LocalReader(descriptor, where)
        finally:
            os.close(descriptor)

    def create(self, name: str, size: int, mode: int = _OWNER) -> None:
        """Make a hidden file of that size beside the place of the one that is to be."""
        beside = self._beside(name)
        with told(self._path(beside)):
            self._inside.remove(beside)
            descriptor = self._inside.create(beside, mode | _OWNER)
            try:
                os.ftruncate(descriptor, size)
            finally:
                os.close(descriptor)

    @contextmanager
    def sink(self, name: str, size: int) -> Iterator["LocalSink"]:
        """Open a file that was created."""
        beside = self._beside(name)
        where = self._path(beside)
        with told(where):
            descriptor = self._inside.open(beside, os.O_WRONLY)
        try:
            yield LocalSink(descriptor, where)
        finally:
            with told(where):
                os.close(descriptor)  # a shared disk may tell of its errors only now

    def finish(self, name: str, mode: int) -> Proof:
        """Sync a file, and meanwhile read it back, most likely from memory."""
        where = self._path(self._beside(name))
        with told(where):
            descriptor = self._inside.open(self._beside(name))
            try:
                found = os.fstat(descriptor)
                if found.st_mode & ~mode & 0o777:
                    os.fchmod(descriptor, found.st_mode & mode & 0o777)
                with ThreadPoolExecutor(1, "normtree-sync") as syncer:
                    syncing = syncer.submit(os.fsync, descriptor)
                    digest = digest_of(LocalReader(descriptor, where), found.st_size)
                    syncing.result()
                found = os.fstat(descriptor)
            finally:
                os.close(descriptor)
        return Proof(found.st_size, str(found.st_mtime_ns), found.st_ino, digest=digest)

    def place(self, name: str) -> None:
        """Rename a file into its place where nothing is, and sync the folder that names it."""
        name = self.only or name
        where = self._path(name)
        try:
            with told(where):
                self._inside.place(hidden(name), name)
        except StorageFailed as error:
            if isinstance(error.__cause__, FileExistsError):
                raise JobConflict(f"{where}: somebody put it there while the job ran; move it, and run again") from None
            raise

    def waits(self, name: str, proof: Proof) -> bool:
        """Look whether the hidden file is the one that was finished."""
        with suppress(OSError):
            found = self._inside.stat(self._beside(name))
            return found is not None and proof.fits(_stat(found))
        return False

    def taken(self, name: str | None) -> str | None:
        """Look for anything at all, links and folders in a file's place too."""
        with told(self.path):
            if name is not None:
                return name if self._inside.stat(self.only or name) else None
            with suppress(FileNotFoundError):
                return next(iter(self._inside.names()), None)
        return None

    def set_aside(self, name: str, state_url: str) -> None:
        """Move what is in a file's place to ``replaced`` in the state's folder, beside what was moved there before."""
        where = self._path(self.only or name)
        everything = Enclosure("/")
        with told(where):
            if everything.stat(where.lstrip("/")) is None:
                return
            to = free = f"{state_url}/{REPLACED}/{self.only or name}".lstrip("/")
            count = 1
            while everything.stat(free) is not None:
                count += 1
                free = f"{to}.{count}"
            try:
                everything.move(where.lstrip("/"), free)
            except OSError as error:
                if error.errno != errno.EXDEV:  # the output is a disk of its own
                    raise
                raise JobConflict(f"{where}: it is not what the job wrote; move it, and run again") from None

    def discard(self, name: str) -> None:
        """Remove the hidden file of an earlier attempt."""
        beside = self._beside(name)
        with suppress(FileNotFoundError), told(self._path(beside)):
            self._inside.remove(beside)

    def free_bytes(self) -> int:
        """Tell the room left on the disk that holds the folder, or will."""
        folder = Path(self.path)
        while not folder.exists():
            folder = folder.parent
        with told(str(folder)):
            return shutil.disk_usage(folder).free

    @property
    def _inside(self) -> Enclosure:
        return Enclosure(self.path, self.folder_modes)

    def _at(self, name: str) -> tuple[Enclosure, str]:
        """Return where a file really is."""
        real = None if self.listed is None else self.listed.get(name)
        if real is None:
            return self._inside, self.only or name
        return Enclosure(os.path.dirname(real)), os.path.basename(real)

    def _beside(self, name: str) -> str:
        return hidden(self.only or name)

    def _path(self, name: str) -> str:
        return f"{self.path}/{name}"


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


def _stat(found: os.stat_result) -> Stat:
    mode = found.st_mode & 0o777
    return Stat(found.st_size, str(found.st_mtime_ns), str(found.st_ctime_ns), found.st_ino, mode)
