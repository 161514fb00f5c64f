"""A folder that others can touch too: what is below it is reached by descriptors, and through no link.

Whoever may write in a folder can put a link, a FIFO or another file where a file was, at any moment; a path that has
been checked may be another one when it is opened. So a path is walked here from ``/`` on, each folder opened below the
one before without following links, and what is opened is looked at again through its descriptor. All errors are
OSErrors. Jobs, the board, reports, caches and keys reach their files this way.
"""

import errno
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass

MOST_DEPTH = 100  # folders in each other that are looked through
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC  # a FIFO is not waited for
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_KINDS = {
    stat.S_IFLNK: "a link, which is not followed",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


@dataclass(frozen=True)
class Enclosure:
    """A folder, and the files below it by their names relative to it. Plain data: nothing is open between two calls.

    Args:
        path: absolute; its links were resolved once, by `os.path.realpath`, and one that is found later is refused.
        folder_modes: permissions of folders that come to be, by their names, ``""`` for the folder itself; those of
            others are the usual ones. The process's umask holds for all.
    """

    path: str
    folder_modes: Mapping[str, int] | None = None

    def stat(self, name: str) -> os.stat_result | None:
        """Tell what is there, itself and not what a link leads to; None where nothing is.

        Raises:
            OSError: a link or a file is on the way to it, or it cannot be reached.
        """
        try:
            with self.folder_of(name) as (folder, last):
                return os.stat(last, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def names(self) -> list[str]:
        """Name all that is below but folders, sorted; links and special files too.

        Raises:
            OSError: a folder cannot be read.
        """
        with self.folder_of(".") as (folder, _):
            return sorted(_below(folder, "", MOST_DEPTH))

    def open(self, name: str, flags: int = os.O_RDONLY) -> int:
        """Open a file that is there.

        Args:
            name: of the file.
            flags: how, as for `os.open`.

        Returns:
            A descriptor, which the caller closes.

        Raises:
            OSError: there is none, or what is there is no file, which is never opened.
        """
        with self.folder_of(name) as (folder, last):
            check_file(os.stat(last, dir_fd=folder, follow_symlinks=False))
            descriptor = os.open(last, flags | _FILE, dir_fd=folder)
        try:
            check_file(os.fstat(descriptor))
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def create(self, name: str, mode: int = 0o666) -> int:
        """Make a new file, and the folders that it lies in.

        Args:
            name: of the file.
            mode: its permissions, less the umask's.

        Returns:
            A descriptor for reading and writing, which the caller closes.

        Raises:
            FileExistsError: anything is there, were it a link to nowhere.
            OSError: it cannot be made.
        """
        with self.folder_of(name, make=True) as (folder, last):
            return os.open(last, os.O_RDWR | os.O_CREAT | os.O_EXCL | _FILE, mode, dir_fd=folder)

    def read(self, name: str, most_bytes: int | None = None) -> bytes | None:
        """Return a file's bytes; None where there is none.

        Raises:
            OSError: what is there is no file, is longer than ``most_bytes``, or cannot be read.
        """
        try:
            descriptor = self.open(name)
        except FileNotFoundError:
            return None
        with open(descriptor, "rb") as file:
            size = os.fstat(descriptor).st_size
            if most_bytes is not None and size > most_bytes:
                raise OSError(errno.EFBIG, f"wanted at most {most_bytes:,} bytes, got {size:,}")
            return file.read(most_bytes)

    def write(self, name: str, data: bytes, mode: int = 0o666) -> None:
        """Write a file whole, or not at all: beside its place, synced, and renamed over what is there.

        Raises:
            OSError: it cannot be written.
        """
        beside = hidden(name)
        self.remove(beside)
        try:
            with open(self.create(beside, mode), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            self.move(beside, name)
        except BaseException:
            with suppress(OSError):
                self.remove(beside)
            raise

    def move(self, name: str, to: str) -> None:
        """Rename a file, over what is there, and make that safe.

        Raises:
            OSError: it cannot be done.
        """
        with self.folder_of(name) as (source, old), self.folder_of(to, make=True) as (target, new):
            os.rename(old, new, src_dir_fd=source, dst_dir_fd=target)
            _sync(target)

    def place(self, beside: str, name: str) -> None:
        """Rename a file within its folder if nothing is at its new name, and make that safe.

        Raises:
            FileExistsError: something is there; it is left alone.
            OSError: it cannot be done.
        """
        last = name.rpartition("/")[2]
        with self.folder_of(beside) as (folder, old):
            try:
                os.link(old, last, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
                os.unlink(old, dir_fd=folder)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                _rename_to_free(folder, old, last)  # a disk that knows of no second names
            _sync(folder)

    def remove(self, name: str) -> None:
        """Remove a file, or a link itself, that may be there.

        Raises:
            OSError: it is a folder, or cannot be removed.
        """
        with suppress(FileNotFoundError), self.folder_of(name) as (folder, last):
            os.unlink(last, dir_fd=folder)

    @contextmanager
    def folder_of(self, name: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """Open the folder that a name lies in, and tell the name's last part; ``.`` is the folder itself.

        Raises:
            OSError: a link or a file is on the way; a folder is missing, and none is to be made.
        """
        *parts, last = _parts(self.path, name)
        descriptor = os.open("/", _FOLDER)
        try:
            for part, mode in self._steps(parts):
                descriptor = _enter(descriptor, part, mode if make else None)
            yield descriptor, last
        finally:
            os.close(descriptor)

    def _steps(self, parts: list[str]) -> Iterator[tuple[str, int]]:
        """Name the folders on the way, with the permissions of each that has to be made."""
        modes = self.folder_modes or {}
        above = [part for part in self.path.split("/") if part]
        for index, part in enumerate(above, 1):
            yield part, modes.get("", 0o777) if index == len(above) else 0o777
        for index, part in enumerate(parts, 1):
            yield part, modes.get("/".join(parts[:index]), 0o777)


def hidden(name: str) -> str:
    """Return the name beside a file's own under which it is written until it is whole."""
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}.{last}.partial"


def kind_of(mode: int) -> str | None:
    """Say what is there that is no file; None of a file.

    Args:
        mode: as `os.stat` tells it.
    """
    return None if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "something unknown")


def check_file(found: os.stat_result) -> None:
    """Refuse what is no file.

    Raises:
        OSError: it is none.
    """
    if kind := kind_of(found.st_mode):
        raise OSError(errno.ELOOP if stat.S_ISLNK(found.st_mode) else errno.EINVAL, f"wanted a file, got {kind}")


def _parts(folder: str, name: str) -> list[str]:
    """Take a name apart.

    Raises:
        OSError: it is none, or might lead out of the folder.
    """
    parts = name.split("/")
    with suppress(UnicodeEncodeError):
        is_name = name == "." or not any(part in ("", ".", "..") for part in parts)
        is_folder = os.path.isabs(folder) and ".." not in folder.split("/")
        if is_name and is_folder and b"\0" not in os.fsencode(folder + name):
            return parts
    raise OSError(errno.EINVAL, f"wanted a name below an absolute folder, got {name!r} below {folder!r}")


def _enter(folder: int, part: str, mode: int | None) -> int:
    """Open a folder below one that is open, which is closed if that works; make it where a mode is given."""
    try:
        try:
            entered = os.open(part, _FOLDER, dir_fd=folder)
        except FileNotFoundError:
            if mode is None:
                raise
            with suppress(FileExistsError):
                os.mkdir(part, mode, dir_fd=folder)
            entered = os.open(part, _FOLDER, dir_fd=folder)
    except NotADirectoryError:
        kind = kind_of(os.stat(part, dir_fd=folder, follow_symlinks=False).st_mode) or "a file"
        raise NotADirectoryError(errno.ENOTDIR, f"{part!r} on the way to it: wanted a folder, got {kind}") from None
    os.close(folder)
    return entered


def _below(folder: int, prefix: str, depth: int) -> Iterator[str]:
    if depth < 0:
        raise OSError(errno.ENAMETOOLONG, f"wanted at most {MOST_DEPTH} folders in each other, got more")
    readable = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    try:
        with os.scandir(readable) as found:
            entries = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in found]
        for name, is_folder in entries:
            if not is_folder:
                yield prefix + name
                continue
            below = os.open(name, _FOLDER, dir_fd=folder)
            try:
                yield from _below(below, f"{prefix}{name}/", depth - 1)
            finally:
                os.close(below)
    finally:
        os.close(readable)


def _rename_to_free(folder: int, old: str, new: str) -> None:
    try:
        os.stat(new, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        os.rename(old, new, src_dir_fd=folder, dst_dir_fd=folder)
        return
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))


def _sync(folder: int) -> None:
    """Wait until what a folder names is on its disk."""
    readable = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.fsync(readable)
    finally:
        os.close(readable)
