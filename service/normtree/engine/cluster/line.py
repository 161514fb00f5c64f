"""The line to a worker process: calls one way and what came of them the other, over a Unix socket.

A call is a few hundred bytes and takes a tenth of a millisecond there and back. When a worker ends, however it ends,
the kernel closes its end, and the one who waits knows at once. The socket lies in a folder that nobody else may enter,
until the line is made. Either end asks the kernel whose the other is, and both prove that they know the key before
they read anything else; whoever is neither is hung up on, and costs a moment.
"""

import logging
import os
import secrets
import struct
import traceback
from contextlib import suppress
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from pathlib import Path
from socket import (
    AF_UNIX,
    SHUT_RDWR,
    SO_PEERCRED,
    SO_RCVTIMEO,
    SO_SNDTIMEO,
    SOCK_STREAM,
    SOL_SOCKET,
    socket,
)
from typing import Any

from normtree.engine.executor import Leaf
from normtree.engine.memory.stop import Stopped

_KEY_BYTES = 32
_TOKEN_BYTES = 4
_PROOF_S = 10
_CREDENTIALS = struct.Struct("3i")  # process, user, group
_TIME = struct.Struct("2l")
_ROOT = 0

logger = logging.getLogger(__name__)


class LineBroken(Exception):
    """The other end is gone."""


class Line:
    """The asker's end.

    Args:
        address: what `Answerer` listens at.
        key: and the key it was made with.

    Raises:
        LineBroken: the worker has ended, is stopped, or is another's.
    """

    def __init__(self, address: str, key: bytes) -> None:
        """Connect, and wait until the worker answers, but not for long."""
        end = socket(AF_UNIX, SOCK_STREAM)
        try:
            end.settimeout(_PROOF_S)
            end.connect(address)
            self._connection = _prove(end, key, asks=True)
        except (OSError, EOFError, AuthenticationError) as error:
            end.close()
            raise LineBroken(str(error)) from error
        Path(address).unlink(missing_ok=True)  # nobody else is to connect

    def call(self, leaf: Leaf[Any], args: tuple[Any, ...]) -> Any:
        """Have the worker run a leaf, and return what it returns.

        Raises:
            LineBroken: the worker has ended, or the line was hung up.
            Stopped: the leaf was stopped.
            Exception: what the leaf raised, its traceback as a note.
        """
        try:
            self._connection.send((leaf, args))
            value, error = self._connection.recv()
        except (OSError, EOFError) as broken:
            raise LineBroken from broken
        if error:
            raise error
        return value

    def hang_up(self) -> None:
        """End it: a call under way breaks, in whatever thread, and the worker's end returns when its leaf does."""
        hang_up(self._connection)

    def close(self) -> None:
        """Free it; no call is under way."""
        self._connection.close()


class Answerer:
    """The worker's end.

    Args:
        key: shared with the asker, and nobody else.
        folder: of the asker's own, where to listen.
    """

    def __init__(self, key: bytes, folder: str) -> None:
        """Listen."""
        self._key = key
        self.address = f"{folder}/{os.getpid()}-{secrets.token_hex(_TOKEN_BYTES)}"
        self._listener = socket(AF_UNIX, SOCK_STREAM)
        self._listener.bind(self.address)
        self._listener.listen()

    def answer(self) -> None:
        """Run the leaves that the asker calls, one after the other, until it hangs up or ends."""
        with self._accept() as connection:
            self._listener.close()
            while True:
                try:
                    leaf, args = connection.recv()
                    connection.send(_outcome(leaf, args))
                except (EOFError, ConnectionError):
                    return
                except Exception as error:  # an outcome that cannot be sent; nothing of it has been
                    connection.send((None, TypeError(f"{leaf.__name__}: {error}")))

    def _accept(self) -> "Connection[Any, Any]":
        """Wait for the asker; hang up on whoever else comes."""
        while True:
            end, _ = self._listener.accept()
            try:
                return _prove(end, self._key, asks=False)
            except (OSError, EOFError, AuthenticationError) as error:
                end.close()
                logger.warning("hung up on another than the service: %s", error)


def _prove(end: socket, key: bytes, *, asks: bool) -> "Connection[Any, Any]":
    """Make sure of the other end, within a bound, and return the connection to it.

    Raises:
        PermissionError: it belongs to another user.
        OSError, EOFError: it does not answer, or is gone.
        multiprocessing.AuthenticationError: it does not know the key.
    """
    user = _CREDENTIALS.unpack(end.getsockopt(SOL_SOCKET, SO_PEERCRED, _CREDENTIALS.size))[1]
    if user not in (os.geteuid(), _ROOT):
        raise PermissionError(f"user {user} is at the other end of the line")
    end.settimeout(None)
    _bound(end, _PROOF_S)
    connection: Connection[Any, Any] = Connection(os.dup(end.fileno()))
    try:
        for step in (answer_challenge, deliver_challenge) if asks else (deliver_challenge, answer_challenge):
            step(connection, key)
    except BaseException:
        connection.close()
        raise
    _bound(end, 0)
    end.close()
    return connection


def _bound(end: socket, seconds: int) -> None:
    """Let no read or write take longer; 0: as long as it takes."""
    for option in (SO_RCVTIMEO, SO_SNDTIMEO):
        end.setsockopt(SOL_SOCKET, option, _TIME.pack(seconds, 0))


def hang_up(connection: "Connection[Any, Any]") -> None:
    """End what goes over a connection, in whatever thread it is read; both ends find it at its end."""
    with suppress(OSError), socket(fileno=os.dup(connection.fileno())) as line:
        line.shutdown(SHUT_RDWR)


def new_key() -> bytes:
    """Make a key for a line."""
    return secrets.token_bytes(_KEY_BYTES)


def _outcome(leaf: Leaf[Any], args: tuple[Any, ...]) -> tuple[Any, Exception | None]:
    """What a leaf returns, or what it raises."""
    try:
        return leaf(*args), None
    except Stopped as stopped:
        return None, stopped.with_traceback(None)
    except Exception as error:
        error.add_note(f"in worker {os.getpid()}:\n{traceback.format_exc()}")
        return None, error
