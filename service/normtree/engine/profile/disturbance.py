"""Disturbance: the share of its time in which this process wanted a processor that others had."""

from contextlib import suppress
from pathlib import Path
from time import process_time_ns
from types import TracebackType
from typing import Self

_THREADS = Path("/proc/self/task")


class Disturbance:
    """Watches this process from entry to exit.

    Attributes:
        share: of the time in which its threads ran or wanted to, how much they had to wait; 0 to 1, and 0 where the
            system does not tell.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self.share = 0.0

    def __enter__(self) -> Self:
        self._waited_ns, self._ran_ns = _waited_ns(), process_time_ns()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        waited_ns = max(0, _waited_ns() - self._waited_ns)
        wanted_ns = waited_ns + process_time_ns() - self._ran_ns
        self.share = waited_ns / wanted_ns if wanted_ns else 0.0


def _waited_ns() -> int:
    """Nanoseconds that the threads there are have waited in the scheduler's queues."""
    total = 0
    with suppress(OSError):
        for thread in _THREADS.iterdir():
            with suppress(OSError, IndexError, ValueError):  # it has ended meanwhile
                total += int((thread / "schedstat").read_text().split()[1])
    return total
