"""What an input's folder holds: its files by name and where they really are, links to files and folders followed."""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice

from normtree.errors import InvalidCheckpoint, StorageFailed
from normtree.files.enclosure import MOST_DEPTH, Enclosure, kind_of
from normtree.jobs.storage.places import told

MOST_FILES = 1_000_000  # of links in links, which name a few files very often
Check = Callable[[str, str], None]


@dataclass(frozen=True)
class Listing:
    """The files of a folder.

    Args:
        files: where each really is, by its name in the folder.
        folder_modes: permissions of its folders by name, ``""`` for itself; their owner may write in all.
        file_modes: all permissions that its files have.
        linked: where linked files and folders lead to.
    """

    files: dict[str, str] = field(default_factory=dict)
    folder_modes: dict[str, int] = field(default_factory=dict)
    file_modes: set[int] = field(default_factory=set)
    linked: list[str] = field(default_factory=list)

    @property
    def private_mode(self) -> int:
        """Permissions of a folder that tells of all files: for those who may read each of them, and its owner."""
        mode = self.folder_modes.get("", 0o777)
        for readers in self.file_modes:
            mode &= readers & 0o444 | (readers & 0o444) >> 2 | (readers & 0o444) >> 1 | 0o700
        return mode


def list_folder(path: str, check: Check, most: int | None = None) -> Listing:
    """List a folder and what is below it.

    Args:
        path: absolute, without links.
        check: called with each link and the path that it leads to; raises where that is too far.
        most: look at no more entries than that.

    Raises:
        StorageFailed: it is not there, or cannot be read.
        InvalidCheckpoint: a link to nowhere or in a circle, what is neither file nor folder, a name that is no UTF-8.
    """
    listing = Listing()
    found = _below(listing, path, "", (), check)
    for _ in islice(found, MOST_FILES if most is None else most):
        pass
    if most is None and next(found, None):
        raise InvalidCheckpoint(f"{path}: wanted at most {MOST_FILES:,} files, got more")
    return listing


def list_file(folder: str, name: str, check: Check) -> Listing:
    """List one file of a folder; arguments and errors as for `list_folder`."""
    listing = Listing()
    with told(f"{folder}/{name}"):
        found = os.stat(f"{folder}/{name}", follow_symlinks=False)
    for _ in _entry(listing, f"{folder}/{name}", name, found, (), check):
        pass
    return listing


def _below(listing: Listing, path: str, prefix: str, above: tuple[tuple[int, int], ...], check: Check) -> Iterator[str]:
    """Go through a folder; what is found is told as it is put into the listing."""
    with _opened(path, prefix) as folder:
        found = os.fstat(folder)
        here = (found.st_dev, found.st_ino)
        if here in above:
            raise InvalidCheckpoint(f"{prefix.rstrip('/')}: a link to {path}, which it lies in itself")
        if len(above) > MOST_DEPTH:
            raise InvalidCheckpoint(f"{path}: wanted at most {MOST_DEPTH} folders in each other")
        listing.folder_modes[prefix.rstrip("/")] = stat.S_IMODE(found.st_mode) | 0o700
        with told(path), os.scandir(folder) as entries:
            for entry in entries:
                of_entry = entry.stat(follow_symlinks=False)
                yield from _entry(listing, f"{path}/{entry.name}", prefix + entry.name, of_entry, (*above, here), check)


@contextmanager
def _opened(path: str, prefix: str) -> Iterator[int]:
    """Open a folder to list it."""
    try:
        with told(path), Enclosure(path).folder_of(".") as (folder, _):
            readable = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    except StorageFailed as error:
        if not prefix and isinstance(error.__cause__, FileNotFoundError):
            raise StorageFailed(f"{path}: no such folder") from None
        raise
    try:
        yield readable
    finally:
        os.close(readable)


def _entry(
    listing: Listing,
    path: str,
    name: str,
    found: os.stat_result,
    above: tuple[tuple[int, int], ...],
    check: Check,
) -> Iterator[str]:
    _check_utf8(path)
    real = path
    if stat.S_ISLNK(found.st_mode):
        real, found = _followed(path, check)
        listing.linked.append(real)
    if stat.S_ISDIR(found.st_mode):
        yield name
        yield from _below(listing, real, f"{name}/", above, check)
        return
    if kind := kind_of(found.st_mode):
        raise InvalidCheckpoint(f"{path}: wanted a file or a folder, got {kind}")
    listing.files[name] = real
    listing.file_modes.add(stat.S_IMODE(found.st_mode))
    yield name


def _followed(path: str, check: Check) -> tuple[str, os.stat_result]:
    real = os.path.realpath(path)
    check(path, real)
    _check_utf8(real)
    try:
        return real, os.stat(real)
    except OSError as error:
        raise InvalidCheckpoint(f"{path}: a link to {real}: {error.strerror}") from None


def _check_utf8(path: str) -> None:
    try:
        path.encode()
    except UnicodeEncodeError:
        raise InvalidCheckpoint(f"{path!r}: the name is no UTF-8; rename it") from None
