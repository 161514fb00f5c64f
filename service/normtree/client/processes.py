"""What a process must not share with those that it forks."""

import os
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class OfProcess(Generic[T]):
    """One of a kind for each process: a forked child makes its own where it first asks.

    A child that used its parent's connections would read answers to its parent's requests, and to its siblings'. What
    it inherits is neither used nor closed nor dropped: closing may say goodbye on a connection that the parent still
    has, and wait for a lock that a thread held which the child is without.

    Args:
        make: makes one.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        """Make the first."""
        self._make = make
        self._made = {os.getpid(): make()}

    def get(self) -> T:
        """Return that of this process. Threads may ask at once: they get the same."""
        pid = os.getpid()
        return self._made[pid] if pid in self._made else self._made.setdefault(pid, self._make())
