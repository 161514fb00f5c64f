"""A folder that is this process's alone: nobody else can look into it, and nothing of it stays.

Like a segment of the arena it is locked for as long as its owner lives; one that can be locked has none any more, and
whoever makes the next one removes it.
"""

import fcntl
import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

_TOKEN_BYTES = 3


class OwnFolder:
    """A folder of mode 0700, removed with all that is in it when it is closed.

    Args:
        place: where to make it.
        prefix: what its name begins with; abandoned ones of that prefix are removed.

    Attributes:
        path: of the folder.
    """

    def __init__(self, place: Path, prefix: str) -> None:
        """Make it.

        Raises:
            OSError: it cannot be made there.
        """
        remove_abandoned(place, prefix)
        self.path, self._lock = _make(place, prefix)

    def close(self) -> None:
        """Remove it; a second time does nothing."""
        lock, self._lock = self._lock, None
        if lock is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(lock)


def _make(place: Path, prefix: str) -> tuple[Path, int | None]:
    """Make and lock a folder; once more where another has taken it for an abandoned one, before it was locked."""
    while True:
        path = place / f"{prefix}{secrets.token_hex(_TOKEN_BYTES)}"
        path.mkdir(mode=0o700)
        with suppress(FileNotFoundError):
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.is_dir():
                return path, lock
            os.close(lock)


def remove_abandoned(place: Path, prefix: str) -> None:
    """Remove our own folders of a prefix whose owners no longer live."""
    for path in place.glob(f"{prefix}*"):
        try:
            if path.lstat().st_uid != os.geteuid():
                continue
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:  # removed meanwhile, or no folder
            continue
        with suppress(BlockingIOError):  # its owner lives
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        os.close(lock)
