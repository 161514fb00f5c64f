"""Folders behind fsspec URLs: read by ranges, written in parts from the start of a file to its end.

A file of the output appears when its last part is there: until then a store shows nothing of it.
"""

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import time
from typing import Any

from normtree.extras import missing

if error := missing("a URL", "s3"):
    raise error

import fsspec

from normtree.errors import InvalidRecipe, JobConflict, NormtreeError, StorageFailed
from normtree.jobs.storage.places import Proof, Reader, Stat
from normtree.jobs.storage.state import gone

PART_BYTES = 1 << 24  # of reads and of writes: large enough to be worth a request
_LEASE_S, _BEAT_S = 90.0, 15.0


@dataclass(frozen=True)
class RemoteFolder:
    """A folder by its URL; how to reach its store comes from fsspec's configuration and the store's own environment.

    Args:
        url: such as ``s3://bucket/models/one``.
        only: the name that a single file has here, whatever its name in the input is.
    """

    url: str
    only: str | None = None

    streams = True

    def names(self) -> tuple[str, ...]:
        """Name the files in the folder and below, sorted."""
        fs, root = _reach(self.url)
        with _told(self.url):
            fs.invalidate_cache()
            found = fs.find(root)
        return tuple(sorted(path[len(root) :].lstrip("/") for path in found))

    def stat(self, name: str) -> Stat:
        """Tell a file's size and its tag, or when it was changed."""
        fs, path = self._at(name)
        with _told(f"{self.url}/{name}"):
            fs.invalidate_cache()
            found = fs.info(path)
        marks = (found.get(key) for key in ("ETag", "etag", "LastModified", "last_modified", "mtime", "created"))
        return Stat(int(found["size"]), str(next((mark for mark in marks if mark), "")))

    @contextmanager
    def reader(self, name: str) -> Iterator["RemoteReader"]:
        """Open a file for reading by ranges."""
        fs, path = self._at(name)
        yield RemoteReader(fs, path, f"{self.url}/{name}")

    def create(self, name: str, size: int, mode: int = 0o600) -> None:
        """Do nothing: a store makes room as parts come."""

    @contextmanager
    def sink(self, name: str, size: int) -> Iterator["RemoteSink"]:
        """Open a file for writing; it is there, whole, when this ends without an error, and else not."""
        fs, path = self._at(name)
        where = f"{self.url}/{self.only or name}"
        with _told(where):
            file = fs.open(path, "wb", block_size=PART_BYTES, autocommit=False)
        sink = RemoteSink(file, where)
        try:
            yield sink
        except BaseException:
            with _told(where):
                file.discard()
            raise
        with _told(where):
            if sink.position != size:
                file.discard()
                raise StorageFailed(f"{where}: {size} bytes were to be written, got {sink.position}")
            file.close()
            file.commit()

    def finish(self, name: str, mode: int) -> Proof:
        """Tell how the file looks that is in place since its last part was."""
        found = self.stat(name)
        return Proof(found.size, found.mark)

    def place(self, name: str) -> None:
        """Do nothing: it is in place."""

    def waits(self, name: str, proof: Proof) -> bool:
        """Tell that no file waits: a store shows it when it is whole."""
        return False

    def taken(self, name: str | None) -> str | None:
        """Look for a file."""
        return next((found for found in self.names() if name in (None, found)), None)

    def set_aside(self, name: str, state_url: str) -> None:
        """Do nothing: a store replaces it, whole, when the new one is there."""

    def discard(self, name: str) -> None:
        """Do nothing: parts without a file are the store's to drop."""

    def free_bytes(self) -> None:
        """Tell nothing: a store has no known end."""

    def _at(self, name: str) -> tuple[Any, str]:
        fs, root = _reach(self.url)
        return fs, f"{root}/{self.only or name}"


class RemoteReader:
    """A file read by ranges, a part at a time, since most reads follow the one before."""

    def __init__(self, fs: Any, path: str, where: str) -> None:
        """Read nothing yet."""
        self._fs, self._path, self.where = fs, path, where
        self._start, self._part = 0, b""

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill a buffer with the file's bytes from ``start`` on."""
        stop = start + len(buffer)
        if not (self._start <= start and stop <= self._start + len(self._part)):
            with _told(self.where):
                self._part = self._fs.cat_file(self._path, start=start, end=max(stop, start + PART_BYTES))
            self._start = start
        found = self._part[start - self._start : stop - self._start]
        if len(found) < len(buffer):
            raise StorageFailed(f"{self.where}: truncated: wanted {len(buffer)} bytes at {start}, got {len(found)}")
        buffer[:] = found


class RemoteSink:
    """A file written in parts, in order."""

    def __init__(self, file: Any, where: str) -> None:
        """Begin at its start."""
        self._file, self.where = file, where
        self.position = 0

    def write(self, start: int, data: memoryview) -> None:
        """Put bytes behind those that were written before."""
        if start != self.position:
            raise StorageFailed(f"{self.where}: wanted the bytes from {self.position} on, got those from {start} on")
        with _told(self.where):
            self._file.write(bytes(data))
        self.position += len(data)

    def copy(self, reader: Reader, start: int, stop: int) -> None:
        """Copy a range of the input through a buffer."""
        buffer = memoryview(bytearray(min(PART_BYTES, stop - start)))
        while start < stop:
            part = buffer[: min(len(buffer), stop - start)]
            reader.read_into(start, part)
            self.write(start, part)
            start += len(part)

    def sync(self) -> None:
        """Do nothing: what a store has taken is safe."""


@dataclass(frozen=True)
class RemoteState:
    """A job's folder behind a URL."""

    url: str

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes; None where there is none."""
        fs, path = self._at(name)
        with _told(path):
            try:
                found: bytes = fs.cat_file(path)
            except FileNotFoundError:
                return None
        return found

    def names(self, folder: str) -> list[str]:
        """Name the files of a folder in it."""
        fs, path = self._at(folder)
        with _told(path):
            fs.invalidate_cache()
            try:
                found = fs.ls(path, detail=False)
            except FileNotFoundError:
                return []
        return sorted(f"{folder}/{name.rstrip('/').rpartition('/')[2]}" for name in found)

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole, as stores do."""
        fs, path = self._at(name)
        with _told(path):
            fs.pipe_file(path, data)

    def append(self, name: str, data: bytes, after: int) -> None:
        """Write a file again with more at its end: stores cannot append."""
        found = self.read(name) or b""
        if len(found) != after:
            raise gone(f"{self.url}/{name}", len(found), after)
        self.write(name, found + data)

    def remove(self, name: str) -> None:
        """Remove a file that may be there."""
        fs, path = self._at(name)
        with _told(path):
            fs.invalidate_cache()
            if fs.exists(path):
                fs.rm_file(path)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold a lease: a file that is created by one only, and told alive while the job is."""
        fs, path = self._at("lease")
        self._take_lease(fs, path)
        over = threading.Event()
        beating = threading.Thread(target=self._beat, args=(fs, path, over), daemon=True)
        beating.start()
        try:
            yield
        finally:
            over.set()
            beating.join()
            self.remove("lease")

    def _take_lease(self, fs: Any, path: str) -> None:
        with _told(path):
            try:
                fs.pipe_file(path, _lease(), mode="create")
                return
            except FileExistsError:
                held = json.loads(self.read("lease") or b"{}")
            if time() - held.get("alive", 0.0) < _LEASE_S:
                raise JobConflict(
                    f"{self.url}: another run is writing this output: process {held.get('process')} of "
                    f"{held.get('host')}; wait for it, or {_LEASE_S:g} s after it has died"
                )
            fs.pipe_file(path, _lease())

    def _beat(self, fs: Any, path: str, over: threading.Event) -> None:
        while not over.wait(_BEAT_S):
            fs.pipe_file(path, _lease())

    def _at(self, name: str) -> tuple[Any, str]:
        fs, root = _reach(self.url)
        return fs, f"{root}/{name}"


def overlap(one: str, other: str) -> bool:
    """Tell whether one of two URLs' places lies in the other, or they are the same."""
    (fs, first), (other_fs, second) = _reach(one), _reach(other)
    first, second = f"{first}/", f"{second}/"
    return bool(fs == other_fs) and (first.startswith(second) or second.startswith(first))


def _lease() -> bytes:
    return json.dumps({"host": socket.gethostname(), "process": os.getpid(), "alive": time()}).encode()


def _reach(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and the path in it.

    Raises:
        InvalidRecipe: there is none for its scheme, or its package is not installed.
    """
    try:
        fs, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        extra = "; for S3: pip install 'normtree[s3]'" if url.startswith("s3") else ""
        raise InvalidRecipe(f"{url}: {error}{extra}") from error
    return fs, path.rstrip("/")


@contextmanager
def _told(where: str) -> Iterator[None]:
    """Turn whatever a store's client raises into our words."""
    try:
        yield
    except NormtreeError:
        raise
    except Exception as error:  # each store has classes of its own, and not all are OSErrors
        raise StorageFailed(f"{where}: {type(error).__name__}: {error}") from error
