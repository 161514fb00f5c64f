"""All connections of a server at once: who is let go when they are too many, and what is kept free for health."""

import logging
from collections.abc import Hashable
from time import monotonic
from typing import Generic, Protocol, TypeVar

_SPARE, _SPARE_SHARE = 64, 8
_TOLD_EVERY_S = 60.0

logger = logging.getLogger(__name__)


class Member(Hashable, Protocol):
    """A connection."""

    def give_way(self) -> None:
        """End at once."""
        ...


M = TypeVar("M", bound=Member)


class Crowd(Generic[M]):
    """The connections that nobody would miss, the one that has been so for the longest first.

    A connection costs its client nothing, and needs no key. Were those that are there first to stay, a few thousand
    that say nothing would shut everybody out. So who waits for nothing gives way to who comes.

    Args:
        limit: most connections at once; some beside them ask for health and metrics only.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._most = limit + max(1, min(_SPARE, limit // _SPARE_SHARE))
        self._idle: dict[M, None] = {}
        self._told_s = -_TOLD_EVERY_S

    def rest(self, member: M) -> None:
        """Note that a connection is idle from now on: it has asked for nothing that is not answered."""
        self._idle.pop(member, None)
        self._idle[member] = None

    def stir(self, member: M) -> None:
        """Note that it is not, or is no more."""
        self._idle.pop(member, None)

    def make_room(self, count: int) -> bool:
        """Make room for one that has come, and is not idle yet, by letting another go.

        Args:
            count: of the connections, this one included.

        Returns:
            Whether it may ask for anything; if not, see `is_full`.
        """
        if count <= self.limit:
            return True
        longest = next(iter(self._idle), None)
        if longest is not None:
            self.stir(longest)
            longest.give_way()
            return True
        if monotonic() >= self._told_s + _TOLD_EVERY_S:
            self._told_s = monotonic()
            logger.warning("connections: %d are busy at once, which is the most; others are refused", self.limit)
        return False

    def is_full(self, count: int) -> bool:
        """Tell whether there is no room even to ask for health."""
        return count > self._most
