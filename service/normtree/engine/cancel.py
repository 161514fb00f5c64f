"""Cancelling: how the one who asked says that nobody wants the answer any more."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock


class Cancel:
    """An event that is set once, from any thread; work that watches it stops within about 50 ms."""

    def __init__(self) -> None:
        """Start unset."""
        self._lock = Lock()
        self._watchers: list[Callable[[], None]] = []
        self._is_set = False

    @property
    def is_set(self) -> bool:
        """Whether it has been set."""
        return self._is_set

    def set(self) -> None:
        """Ask for the end of the work; it goes on for a moment, until its next piece. A second time does nothing."""
        with self._lock:
            self._is_set = True
            watchers, self._watchers = self._watchers, []
        for watcher in watchers:
            watcher()

    @contextmanager
    def watched_by(self, watcher: Callable[[], None]) -> Iterator[None]:
        """Have a function called, in the thread that sets it, if it is set in this context or was before.

        Args:
            watcher: short, and safe to call from any thread.
        """
        with self._lock:
            if not self._is_set:
                self._watchers.append(watcher)
        if self._is_set:
            watcher()
        try:
            yield
        finally:
            with self._lock:
                if watcher in self._watchers:
                    self._watchers.remove(watcher)
