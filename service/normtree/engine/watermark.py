"""The watermark: how far, from its start, the bytes of a tensor are ready; one side writes them, the other follows."""

import asyncio
import math
from collections.abc import Callable
from threading import Condition
from time import monotonic


class Watermark:
    """A count of bytes that only rises, awaited by threads and coroutines.

    A tensor's receiver advances it as the body arrives, and leaves start on what has landed; leaves advance another
    as their output becomes complete, and a sender follows it.
    """

    def __init__(self) -> None:
        """Start with nothing ready."""
        self._changed = Condition()
        self._nbytes = 0
        self._error: BaseException | None = None
        self._listeners: list[Callable[[], None]] = []

    @property
    def nbytes(self) -> int:
        """Bytes that are ready now, from the start."""
        return self._nbytes

    def advance(self, nbytes: int) -> None:
        """Say that the first ``nbytes`` are ready: a total, not an increment; less than before changes nothing."""
        with self._changed:
            self._nbytes = max(self._nbytes, nbytes)
            self._tell()

    def fail(self, error: BaseException) -> None:
        """Say that no more will come: who waits for more gets the error. The first one stays."""
        with self._changed:
            self._error = self._error or error
            self._tell()

    def wait(self, nbytes: int, end_s: float = math.inf) -> bool:
        """Block until so many bytes are ready.

        Args:
            nbytes: bytes from the start.
            end_s: `time.monotonic` after which not to wait any longer.

        Returns:
            Whether they are ready.

        Raises:
            BaseException: what `fail` was given, unless so many were ready before.
        """
        with self._changed:
            while not self._reached(nbytes):
                left_s = end_s - monotonic()
                if left_s <= 0.0:
                    return False
                self._changed.wait(None if math.isinf(left_s) else left_s)
            return True

    async def reached(self, nbytes: int) -> None:
        """Wait in a coroutine until so many bytes are ready; cancel it, or put it under a timeout, at will.

        Raises:
            BaseException: as `wait`.
        """
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()

        def listener() -> None:
            loop.call_soon_threadsafe(changed.set)

        with self._changed:
            self._listeners.append(listener)
        try:
            while not self._reached(nbytes):
                await changed.wait()
                changed.clear()
        finally:
            with self._changed:
                self._listeners.remove(listener)

    def _reached(self, nbytes: int) -> bool:
        if self._nbytes >= nbytes:
            return True
        if self._error:
            raise self._error
        return False

    def _tell(self) -> None:
        self._changed.notify_all()
        for listener in self._listeners:
            listener()
