"""A stream that never makes who writes to it wait, however slow the disk or the reader of the pipe behind it."""

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue

_WAITING_BYTES = 2**22
_BATCH_BYTES = 2**16


class LogStream:
    """Takes lines, and has a thread write them. Lines beyond what may wait are dropped, and how many is told after.

    Args:
        descriptor: of an open file. It is written to directly: a buffer's lock, held while a write blocks, would keep
            the process from ending.
        tell: makes the line that tells of a number of dropped ones.
        waiting_bytes: most bytes that may wait.
    """

    def __init__(self, descriptor: int, tell: Callable[[int], str], waiting_bytes: int = _WAITING_BYTES) -> None:
        self._descriptor, self._tell, self._most_bytes = descriptor, tell, waiting_bytes
        self._lines: SimpleQueue[bytes | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._waiting_bytes = 0
        self._dropped = 0
        self._thread = threading.Thread(target=self._work, name="normtree-log", daemon=True)
        self._thread.start()

    def write(self, text: str) -> int:
        """Take a line, or drop it."""
        data = text.encode(errors="backslashreplace")
        with self._lock:
            if self._waiting_bytes + len(data) > self._most_bytes:
                self._dropped += 1
                return len(text)
            self._waiting_bytes += len(data)
        self._lines.put(data)
        return len(text)

    def flush(self) -> None:
        """Do nothing: who logs does not wait."""

    def close(self, wait_s: float) -> None:
        """Write what waits, but no longer than some time."""
        self._lines.put(None)
        self._thread.join(wait_s)

    def _work(self) -> None:
        while (line := self._lines.get()) is not None:
            batch, ends = self._gather(line)
            self._write(batch)
            with self._lock:
                self._waiting_bytes -= len(batch)
                dropped, self._dropped = self._dropped, 0
            if dropped:
                self._write(self._tell(dropped).encode())
            if ends:
                return

    def _gather(self, line: bytes) -> tuple[bytes, bool]:
        """Return a line and those that wait behind it, up to a bound, and whether no more will come."""
        batch = bytearray(line)
        with suppress(Empty):
            while len(batch) < _BATCH_BYTES:
                after = self._lines.get_nowait()
                if after is None:
                    return bytes(batch), True
                batch += after
        return bytes(batch), False

    def _write(self, data: bytes) -> None:
        """Write; what cannot be written is lost."""
        left = memoryview(data)
        with suppress(OSError):
            while left:
                left = left[os.write(self._descriptor, left) :]
