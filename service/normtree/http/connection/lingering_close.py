"""Hanging up so that the client reads what it was answered: its own bytes are taken a while longer, and dropped.

A socket that is closed while bytes of its peer are unread, or still come, is reset, and a peer that is reset while it
sends may never see the answer that says why it need not. So the sending side is closed, and what comes is dropped,
until the client hangs up too, or has sent or taken more than is borne.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from normtree.http.connection.joined_writes import Joining


class Lingering:
    """A connection's transport, whose close lingers where bytes of the client are on their way.

    Everything but `close`, `is_closing` and `write`, which is that of `Joining`, is the transport's own.

    Args:
        transport: of the connection.
        awaited: tells whether more of a request may be on its way.
        limit_bytes: most bytes that are dropped.
        timeout_s: seconds that it may take.

    Attributes:
        lingers: whether what comes is to be dropped.
    """

    def __init__(
        self, transport: asyncio.Transport, awaited: Callable[[], bool], limit_bytes: int, timeout_s: float
    ) -> None:
        self._transport = transport
        self._awaited = awaited
        self._left_bytes = limit_bytes
        self._timeout_s = timeout_s
        self._timer: asyncio.TimerHandle | None = None
        self.lingers = False
        self._joining = Joining(transport)
        self.write: Callable[[bytes | memoryview], None] = self._joining.write

    def __getattr__(self, name: str) -> Any:
        """Return what is the transport's own."""
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Tell whether nothing more will be sent or taken."""
        return self.lingers or self._transport.is_closing()

    def close(self) -> None:
        """Hang up, and write no more; a second time, without lingering."""
        self._joining.flush()
        self.write = _drop
        if self.is_closing() or not (self._awaited() and self._transport.can_write_eof()):
            self._transport.close()
            return
        self.lingers = True
        self._timer = asyncio.get_running_loop().call_later(self._timeout_s, self._transport.close)
        self._transport.write_eof()
        self._transport.resume_reading()

    def drop(self, data: bytes) -> None:
        """Drop bytes that came; hang up at the bound."""
        self._left_bytes -= len(data)
        if self._left_bytes < 0:
            self._transport.close()

    def lost(self) -> None:
        """End, with the connection."""
        if self._timer:
            self._timer.cancel()


def _drop(data: bytes | memoryview) -> None:
    """Write nothing: whoever still answers learns from his connection's end that nobody hears."""
