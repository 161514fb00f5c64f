"""Writing the head of an answer together with the body's beginning: one call of the system, one wake of the client."""

import asyncio

_SHORT_BYTES = 2**12


class Joining:
    """Writes to a connection; what is short waits for what follows it, but not past the event loop's turn.

    Args:
        transport: of the connection, on the running loop.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._held = b""

    def write(self, data: bytes | memoryview) -> None:
        """Write, or hold what is short; a view never, for what it is of may be given back meanwhile."""
        if self._held:
            held, self._held = self._held, b""
            self._transport.writelines((held, data))
        elif isinstance(data, bytes) and len(data) <= _SHORT_BYTES:
            self._held = data
            self._loop.call_soon(self.flush)
        else:
            self._transport.write(data)

    def flush(self) -> None:
        """Write what is held; to a connection that is gone, nothing."""
        held, self._held = self._held, b""
        if held and not self._transport.is_closing():
            self._transport.write(held)
