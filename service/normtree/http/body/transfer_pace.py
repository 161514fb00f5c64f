"""The course of a transfer: how far a body that arrives, or an answer that is read, must be at what time."""

import asyncio
from typing import NamedTuple, Self

from normtree.settings import Settings


class TransferPace(NamedTuple):
    """What a transfer must keep to.

    Args:
        timeout_s: seconds that all of it may take.
        grace_s: seconds that it may be behind an even share of these.
    """

    timeout_s: float
    grace_s: float

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Take it from the settings."""
        return cls(settings.body_timeout_s, settings.body_grace_s)


class Course:
    """A time for all bytes of a transfer, with which it must keep up after a while.

    What is promised and does not come, or is not read, holds memory that others wait for: so each part of the bytes has
    its part of the time, and all of them together the whole.

    Args:
        total: bytes of the transfer.
        pace: what it must keep to; its time begins now.
    """

    def __init__(self, total: int, pace: TransferPace) -> None:
        self._total, self._pace = total, pace
        self._start = asyncio.get_running_loop().time()

    def allowed_s(self, done: int) -> float:
        """Return the seconds that it may have taken when the byte after ``done`` comes."""
        share = done / self._total if self._total else 1.0
        return min(self._pace.timeout_s, self._pace.grace_s + self._pace.timeout_s * share)

    def due(self, done: int) -> float:
        """Return until when the byte after ``done`` must come, on the event loop's clock."""
        return self._start + self.allowed_s(done)

    def put_off(self, seconds: float) -> None:
        """Give it some more time, for which others are to blame."""
        self._start += seconds
