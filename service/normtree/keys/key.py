"""Keys of clients: made at random, named, and kept as hashes.

A line ``NAME sha256:HEX`` stands for one key, and ``NAME sha256:HEX admin`` for one that sees and ends what others have
made. The key itself is 256 random bits, so that a plain hash keeps it: there is nothing to guess, and checking it costs
microseconds. ``#`` begins a comment.
"""

import hashlib
import os
import re
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

NO_KEY = "anonymous"  # the name of every client where no keys are asked for
_PREFIX = "nt_"
_RANDOM_BYTES = 32
_ADMIN = "admin"
_LINE = re.compile(
    r"(?P<name>[A-Za-z0-9._-]{1,64})[ \t]+sha256:(?P<digest>[0-9a-f]{64})(?P<admin>[ \t]+admin)?", re.ASCII
)
_FILE_LIMIT_BYTES = 2**22
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_BOM = "\ufeff"  # Windows' editors begin texts with it


@dataclass(frozen=True)
class Key:
    """What the service knows of one client's key.

    Attributes:
        name: of the client, for logs and limits; 1 to 64 of letters, digits, ``.``, ``_`` and ``-``.
        digest: SHA-256 of the key.
        admin: whether it sees and ends what others have made.
    """

    name: str
    digest: bytes
    admin: bool = False

    def __str__(self) -> str:
        """Return the line that stands for the key."""
        return f"{self.name} sha256:{self.digest.hex()}{f' {_ADMIN}' if self.admin else ''}"


def new_key(name: str, admin: bool = False) -> tuple[str, Key]:
    """Make a key; return the secret, which is kept nowhere, and what the service needs to know of it.

    Raises:
        ValueError: the name is not permitted.
    """
    secret = _PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    key = Key(name, digest_of(secret), admin)
    if not _LINE.fullmatch(str(key)):
        raise ValueError(f"name: wanted 1 to 64 letters, digits, '.', '_', '-', got {name!r}")
    return secret, key


def digest_of(secret: str) -> bytes:
    """Return what is kept of a key."""
    return hashlib.sha256(secret.encode()).digest()


def read_keys(text: str, where: str) -> tuple[Key, ...]:
    """Read lines of keys; ``;`` separates lines too, for the environment's sake.

    Raises:
        ValueError: a line is no key, a name occurs twice, or there is no key at all: who means to ask for none gives
            no text. A line is named by its number, not shown.
    """
    keys: dict[str, Key] = {}
    for number, line in enumerate(re.split(r"[\n;]", text.removeprefix(_BOM)), start=1):
        content = line.partition("#")[0].strip()
        if not content:
            continue
        match = _LINE.fullmatch(content)
        if match is None:
            raise ValueError(f"{where}: line {number}: wanted NAME sha256:HEX, as `normtree key new NAME` prints it")
        if match["name"] in keys:
            raise ValueError(f"{where}: line {number}: the name {match['name']} occurs twice")
        keys[match["name"]] = Key(match["name"], bytes.fromhex(match["digest"]), bool(match["admin"]))
    if not keys:
        raise ValueError(f"{where}: wanted a key or more, got none; `normtree key new NAME` makes one")
    return tuple(keys.values())


def read_key_file(file: Path) -> tuple[Key, ...]:
    """Read a file of keys.

    Raises:
        OSError: it cannot be read.
        ValueError: as `read_keys`; it is no regular file, or others may write it and so let themselves in.
    """
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, "rb") as opened:
        _check_kept(os.fstat(descriptor), file)
        raw = opened.read(_FILE_LIMIT_BYTES + 1)
    if len(raw) > _FILE_LIMIT_BYTES:
        raise ValueError(f"{file}: wanted at most {_FILE_LIMIT_BYTES} bytes of keys, got more")
    try:
        return read_keys(raw.decode(), str(file))
    except UnicodeDecodeError:
        raise ValueError(f"{file}: wanted lines of keys in UTF-8, got other bytes") from None


def add_key(key: Key, file: Path) -> None:
    """Add a key to a file, which is made where there is none, for its owner alone.

    Raises:
        OSError: it cannot be read or written.
        ValueError: as `read_key_file`; a key of that name is there.
    """
    with open(file, "a+", encoding="utf-8", opener=_private) as opened:
        _check_kept(os.fstat(opened.fileno()), file)
        opened.seek(0)
        before = opened.read()
        line = f"{'' if before.endswith(chr(10)) or not before else chr(10)}{key}\n"
        read_keys(before + line, str(file))
        opened.write(line)


def _check_kept(status: os.stat_result, file: Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{file}: wanted a regular file")
    if status.st_mode & _OTHERS_WRITE:
        mode = stat.S_IMODE(status.st_mode)
        raise ValueError(f"{file}: wanted a file that nobody but its owner may write, got mode {mode:o}; chmod go-w")


def _private(path: str, flags: int) -> int:
    """Open a file that only its owner can read."""
    return os.open(path, flags | os.O_NONBLOCK, 0o600)
