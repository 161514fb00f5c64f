"""Keys of clients: made at random, named, kept as hashes, compared in constant time, read again when they change.

A line ``NAME sha256:HEX`` stands for one key. The key itself is 256 random bits, so that a plain hash keeps it: there
is nothing to guess, and checking it costs microseconds. ``#`` begins a comment.
"""

import hashlib
import hmac
import logging
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

_PREFIX = "nt_"
_RANDOM_BYTES = 32
_LINE = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,64})[ \t]+sha256:(?P<digest>[0-9a-f]{64})", re.ASCII)
_LOOK_AGAIN_S = 1.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Key:
    """What the service knows of one client's key.

    Attributes:
        name: of the client, for logs and limits; 1 to 64 of letters, digits, ``.``, ``_`` and ``-``.
        digest: SHA-256 of the key.
    """

    name: str
    digest: bytes

    def __str__(self) -> str:
        """Return the line that stands for the key."""
        return f"{self.name} sha256:{self.digest.hex()}"


def new_key(name: str) -> tuple[str, Key]:
    """Make a key; return the secret, which is kept nowhere, and what the service needs to know of it.

    Raises:
        ValueError: the name is not permitted.
    """
    secret = _PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    key = Key(name, _digest(secret))
    if not _LINE.fullmatch(str(key)):
        raise ValueError(f"name: wanted 1 to 64 letters, digits, '.', '_', '-', got {name!r}")
    return secret, key


def read_keys(text: str, where: str) -> tuple[Key, ...]:
    """Read lines of keys; ``;`` separates lines too, for the environment's sake.

    Raises:
        ValueError: a line is no key, or a name occurs twice. The line is named by its number, not shown.
    """
    keys: dict[str, Key] = {}
    for number, line in enumerate(re.split(r"[\n;]", text), start=1):
        content = line.partition("#")[0].strip()
        if not content:
            continue
        match = _LINE.fullmatch(content)
        if match is None:
            raise ValueError(f"{where}: line {number}: wanted NAME sha256:HEX, as `normtree key new NAME` prints it")
        if match["name"] in keys:
            raise ValueError(f"{where}: line {number}: the name {match['name']} occurs twice")
        keys[match["name"]] = Key(match["name"], bytes.fromhex(match["digest"]))
    return tuple(keys.values())


class KeyRing:
    """The keys that open the service now: the fixed ones, and those of a file, read again when it changes.

    Args:
        fixed: lines of keys, from the environment.
        file: a file of such lines; None for none.

    Raises:
        ValueError: a line is no key.
        OSError: the file cannot be read.
    """

    def __init__(self, fixed: str, file: Path | None) -> None:
        self._fixed = read_keys(fixed, "keys")
        self._file = file
        self._stamp = _stamp(file) if file else None
        self._from_file = _read_file(file) if file else ()
        self._looked_s = monotonic()

    @property
    def required(self) -> bool:
        """Whether a key must be shown at all. A file without a key opens to nobody."""
        return self._file is not None or bool(self._fixed)

    def name_of(self, secret: str) -> str | None:
        """Return whose key this is, None for nobody's. Every key is compared, however early one fits."""
        self._look_again()
        digest = _digest(secret)
        found = None
        for key in (*self._fixed, *self._from_file):
            if hmac.compare_digest(key.digest, digest):
                found = key.name
        return found

    def _look_again(self) -> None:
        """Read the file again if it changed; a file that cannot be read leaves the keys as they are."""
        if self._file is None or monotonic() - self._looked_s < _LOOK_AGAIN_S:
            return
        self._looked_s = monotonic()
        try:
            stamp = _stamp(self._file)
            if stamp != self._stamp:
                self._from_file, self._stamp = _read_file(self._file), stamp
                logger.info("%s: %d keys read again", self._file, len(self._from_file))
        except (OSError, ValueError) as error:
            logger.error("keys stay as they were: %s", error)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _read_file(file: Path) -> tuple[Key, ...]:
    return read_keys(file.read_text("utf-8"), str(file))


def _stamp(file: Path) -> tuple[int, int, int]:
    """Return what changes with a file's content, or with the file that a link names."""
    status = os.stat(file)
    return status.st_mtime_ns, status.st_size, status.st_ino
