"""Bytes in files that others may touch: what is read back is what was written under that name, or nothing.

Machine code that is read is run. So it is taken only from files, in folders, that nobody writes but this user, root
and whoever owns the sources, who could run code here anyway; and only where a digest of name and content is found
beside it, so that what a full disk, a power cut or a bad sector made of it is not.
"""

import os
import secrets
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

_DIGEST_BYTES = sha256().digest_size
_LIMIT_BYTES = 1 << 26  # a hundred times what there is
_FOLDER_MODE, _FILE_MODE = 0o755, 0o644
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a FIFO in a file's place is not waited for
_CREATE = os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_CREAT | os.O_EXCL


class CodeFiles:
    """Small files in the first of some folders that serves.

    Args:
        folders: where to look, and where to write, in this order; none of them need be there.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = tuple(folders)

    def read(self, name: str) -> bytes | None:
        """Return a file's content; None where no folder has it, whole and from whom we trust."""
        for folder in self.folders:
            with suppress(OSError), _opened(folder) as descriptor:
                content = _checked(name, _read(descriptor, name))
                if content is not None:
                    return content
        return None

    def write(self, name: str, content: bytes) -> Path | None:
        """Write a file, whole or not at all; return the folder that took it, None where none did."""
        for folder in self.folders:
            with suppress(OSError), _made(folder) as descriptor:
                _write(descriptor, name, _digest(name, content) + content)
                return folder
        return None

    def discard(self, unwanted: Callable[[str], bool]) -> None:
        """Remove the files whose names are unwanted, where they can be removed."""
        for folder in self.folders:
            with suppress(OSError), _opened(folder) as descriptor:
                for name in filter(unwanted, os.listdir(descriptor)):
                    os.unlink(name, dir_fd=descriptor)


def why_not_written(folder: Path) -> str:
    """Say why a folder does not take files; an empty text where it does."""
    try:
        with _made(folder) as descriptor:
            name = f".{secrets.token_hex(8)}"
            _write(descriptor, name, b"")
            os.unlink(name, dir_fd=descriptor)
    except OSError as error:
        return error.strerror or str(error)
    return ""


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    """Open a folder in which only those whom we trust can put a file."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _check_owner(os.fstat(descriptor))
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _made(folder: Path) -> Iterator[int]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(_FOLDER_MODE, exist_ok=True)
    with _opened(folder) as descriptor:
        yield descriptor


def _check_owner(status: os.stat_result) -> None:
    """Refuse what somebody else owns or can write to; a group of one's own may."""
    trusted = {os.geteuid(), 0, os.stat(__file__).st_uid}
    shared = status.st_mode & stat.S_IWOTH or (status.st_mode & stat.S_IWGRP and status.st_gid != os.getegid())
    if shared or status.st_uid not in trusted:
        raise PermissionError("others can write to it")


def _read(folder: int, name: str) -> bytes:
    descriptor = os.open(name, _READ, dir_fd=folder)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        _check_owner(status)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LIMIT_BYTES:
            raise OSError("no file of ours")
        return file.read(_LIMIT_BYTES)


def _write(folder: int, name: str, data: bytes) -> None:
    """Write beside the place and rename; on a full disk, leave nothing."""
    partial = f"{name}.{secrets.token_hex(4)}.partial"
    descriptor = os.open(partial, _CREATE, _FILE_MODE, dir_fd=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.replace(partial, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(partial, dir_fd=folder)
        raise


def _digest(name: str, content: bytes) -> bytes:
    return sha256(name.encode() + b"\0" + content).digest()


def _checked(name: str, data: bytes) -> bytes | None:
    content = data[_DIGEST_BYTES:]
    return content if data[:_DIGEST_BYTES] == _digest(name, content) else None
