"""An alarm that is set far more often than it rings, such as one for a connection that falls silent.

To set a timer of the event loop and to take it back costs as much as to parse a request. So the timer of an alarm that
is put off is left where it is, and looks at the clock when its time comes.
"""

import asyncio
from collections.abc import Callable


class Alarm:
    """Rings a time after it was last set, unless it is put off before.

    Args:
        loop: whose clock counts.
        after_s: seconds from setting it to its ringing.
        ring: called then.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, after_s: float, ring: Callable[[], None]) -> None:
        self._loop = loop
        self._after_s = after_s
        self._ring = ring
        self._due_s: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_set(self) -> bool:
        """Whether it will ring."""
        return self._due_s is not None

    def set(self) -> None:
        """Let it ring, counted from now."""
        self._due_s = self._loop.time() + self._after_s
        if self._timer is None:
            self._timer = self._loop.call_at(self._due_s, self._look)

    def put_off(self) -> None:
        """Let it not ring until it is set again."""
        self._due_s = None

    def end(self) -> None:
        """Put it off for good, and keep nothing."""
        self._due_s = None
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self._due_s is None:
            return
        if self._loop.time() < self._due_s:
            self._timer = self._loop.call_at(self._due_s, self._look)
            return
        self._due_s = None
        self._ring()
