"""The line to a worker process: calls one way and what came of them the other, over a Unix socket.

A call is a few hundred bytes and takes a tenth of a millisecond there and back. When a worker ends, however it ends,
the kernel closes its end, and the one who waits knows at once. Both ends prove that they know the key before either
reads anything else, and the socket has no name in any folder, so nothing is left of it.
"""

import os
import secrets
import traceback
from contextlib import suppress
from multiprocessing.connection import Client, Connection, Listener
from socket import SHUT_RDWR, socket
from typing import Any

from normtree.engine.executor import Leaf
from normtree.engine.stop import Stopped

_KEY_BYTES = 32


class LineBroken(Exception):
    """The other end is gone."""


class Line:
    """The asker's end.

    Args:
        address: what `Answerer` listens at.
        key: and the key it was made with.

    Raises:
        LineBroken: the worker has ended.
    """

    def __init__(self, address: str, key: bytes) -> None:
        """Connect; blocks until the worker answers."""
        try:
            self._connection = Client(address, authkey=key)
        except (OSError, EOFError) as error:
            raise LineBroken from error

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
    """

    def __init__(self, key: bytes) -> None:
        """Listen, at an address of the kernel's own namespace for sockets."""
        self._listener = Listener(f"\0normtree-{os.getpid()}-{secrets.token_hex(8)}", authkey=key)

    @property
    def address(self) -> str:
        """What `Line` connects to."""
        address = self._listener.address
        return address.decode() if isinstance(address, bytes) else str(address)

    def answer(self) -> None:
        """Run the leaves that the asker calls, one after the other, until it hangs up or ends."""
        with self._listener.accept() as connection:
            self._listener.close()
            while True:
                try:
                    leaf, args = connection.recv()
                    connection.send(_outcome(leaf, args))
                except (EOFError, ConnectionError):
                    return
                except Exception as error:  # an outcome that cannot be sent; nothing of it has been
                    connection.send((None, TypeError(f"{leaf.__name__}: {error}")))


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
