"""Where files are: a folder of this machine or of a shared disk, or one behind an fsspec URL. What both can do."""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from normtree.errors import StorageFailed, StorageFull

SUFFIX = ".safetensors"
_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://")
_FULL = {"ENOSPC", "EDQUOT", "EFBIG"}


@dataclass(frozen=True)
class Stat:
    """What tells one version of a file from another, without reading it.

    Args:
        size: bytes.
        mark: when its content was last changed, which whoever owns it can put back; or the store's tag of its content.
        changed: when its content, its permissions or its names were last changed, which nobody can put back; empty
            where a store tells none.
        inode: its number on its disk; 0 where it has none.
        mode: its permissions.
    """

    size: int
    mark: str
    changed: str = ""
    inode: int = field(default=0, compare=False)
    mode: int = field(default=0o666, compare=False)


@dataclass(frozen=True)
class Proof:
    """By what a file of the output is known again.

    Args:
        size: bytes.
        mark: as in its `Stat` when it was whole.
        inode: likewise.
        changed: likewise when it was in its place; empty before.
        digest: of its bytes; empty where a store's mark is one.
    """

    size: int
    mark: str
    inode: int = 0
    changed: str = ""
    digest: str = ""

    def fits(self, found: Stat) -> bool:
        """Tell whether a file is that one by a mere look."""
        same = (found.size, found.mark, found.inode) == (self.size, self.mark, self.inode)
        return same and self.changed in ("", found.changed)


class Reader(Protocol):
    """A file that is open for reading anywhere."""

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill a buffer with the file's bytes from ``start`` on.

        Raises:
            StorageFailed: it cannot be read, or ends too early.
        """


class Sink(Protocol):
    """A file of the output that is open for writing."""

    def write(self, start: int, data: memoryview) -> None:
        """Put bytes where they belong.

        Raises:
            StorageFull, StorageFailed: they cannot be written.
        """

    def copy(self, reader: Reader, start: int, stop: int) -> None:
        """Copy a range of the input to the same place."""

    def sync(self) -> None:
        """Wait until all that was written is safe."""


class Folder(Protocol):
    """A folder of files, named relative to it. Plain data: it travels to workers."""

    @property
    def url(self) -> str:
        """The folder's own name, as a person would write it."""

    @property
    def streams(self) -> bool:
        """Whether a file is read in long stretches and written from its start to its end, as object stores want it."""

    def names(self) -> tuple[str, ...]:
        """Name the files in it and below, sorted."""

    def stat(self, name: str) -> Stat:
        """Tell a file's version.

        Raises:
            StorageFailed: there is none, or it cannot be read.
        """

    def reader(self, name: str) -> AbstractContextManager[Reader]:
        """Open a file for reading."""


class Target(Folder, Protocol):
    """A folder that a job writes to."""

    def create(self, name: str, size: int, mode: int = 0o600) -> None:
        """Make room for a file, beside its place and not visible in it, with no more permissions than ``mode``."""

    def sink(self, name: str, size: int) -> AbstractContextManager[Sink]:
        """Open a file that was created; a streamed one is in place when this ends without an error."""

    def finish(self, name: str, mode: int) -> Proof:
        """Sync a file, give it its permissions, and tell what proves it; it is not in its place yet."""

    def place(self, name: str) -> None:
        """Put a file that is finished into its place.

        Raises:
            JobConflict: something is there that was not when the job began.
        """

    def waits(self, name: str, proof: Proof) -> bool:
        """Tell whether a file is finished, by its proof, and not in its place: a job was killed between the two."""

    def taken(self, name: str | None) -> str | None:
        """Name what is in a file's place; without a name, something that is anywhere in the folder; None if nothing."""

    def set_aside(self, name: str, state_url: str) -> None:
        """Move what is in a file's place and not of this job into the folder of the job's state."""

    def discard(self, name: str) -> None:
        """Remove what an earlier attempt has left beside a file's place."""

    def free_bytes(self) -> int | None:
        """Tell the room that is left; None where nobody knows."""


def is_url(place: str) -> bool:
    """Tell whether a place is a URL; ``file://`` is one of this machine."""
    found = _URL.match(place)
    return found is not None and found["scheme"] not in ("file", "local")


def path_of(place: str) -> str:
    """Return the path of a place that is no other machine's."""
    return re.sub(r"^(file|local)://", "", place)


def split_place(place: str) -> tuple[str, str | None]:
    """Split a place into its folder and, where it is one file, that file's name."""
    place = path_of(place).rstrip("/") or "/"
    if not place.endswith(SUFFIX):
        return place, None
    folder, _, name = place.rpartition("/")
    return folder or ".", name


@contextmanager
def told(where: str) -> Iterator[None]:
    """Turn what an operating system or a store says into our words, the file named.

    Raises:
        StorageFull: there is no room.
        StorageFailed: all else.
    """
    import errno

    try:
        yield
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, "")
        reason = error.strerror or str(error) or type(error).__name__
        if name in _FULL:
            raise StorageFull(f"{where}: {reason}; make room and run the job again: it resumes") from error
        raise StorageFailed(f"{where}: {reason}") from error
