"""The keys that open a service now, and who shows them."""

import hmac
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

from normtree.keys.key import Key, digest_of, read_key_file, read_keys

_LOOK_AGAIN_S = 1.0
_TELL_AGAIN = 60  # looks at a file that is still broken

logger = logging.getLogger(__name__)


class KeyRing:
    """The fixed keys, and those of a file, which is read again while it is watched.

    A file that has gone, or that holds no keys any more, leaves the keys as they are, and that is told: an editor's
    half-written file must let in nobody else and lock out nobody.

    Args:
        fixed: lines of keys, from the environment; empty for none.
        file: a file of such lines; None for none.

    Attributes:
        revision: grows when the keys change.

    Raises:
        ValueError: a line is no key, or there is none; the file can be written by others.
        OSError: the file cannot be read.
    """

    def __init__(self, fixed: str, file: Path | None) -> None:
        self._fixed = read_keys(fixed, "keys") if fixed else ()
        self._file = file
        self._from_file = read_key_file(file) if file else ()
        self._broken = 0
        self.revision = 0

    @property
    def required(self) -> bool:
        """Whether a key must be shown at all."""
        return bool(self._fixed or self._from_file)

    def find(self, secret: str) -> Key | None:
        """Return whose key this is, None for nobody's. Every key is compared, however early one fits."""
        digest = digest_of(secret)
        found = None
        for key in self._all:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found

    def holds(self, key: Key) -> bool:
        """Tell whether a key that was found opens still."""
        return key in self._all

    def look_again(self) -> None:
        """Read the file again, whatever its times and size say."""
        if self._file is None:
            return
        try:
            found = read_key_file(self._file)
        except (OSError, ValueError) as error:
            if self._broken % _TELL_AGAIN == 0:
                logger.error("keys stay as they were: %s", error)
            self._broken += 1
            return
        self._broken = 0
        if found != self._from_file:
            self._from_file = found
            self.revision += 1
            logger.info("%s: %d keys read again", self._file, len(found))

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Read the file again every second, on a thread: its storage may take its time."""
        if self._file is None:
            yield
            return
        end = Event()
        thread = Thread(target=self._watch, args=(end,), name="normtree-keys", daemon=True)
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join(2 * _LOOK_AGAIN_S)

    def _watch(self, end: Event) -> None:
        while not end.wait(_LOOK_AGAIN_S):
            self.look_again()

    @property
    def _all(self) -> tuple[Key, ...]:
        return (*self._fixed, *self._from_file)
