"""The stop: a word in shared memory that holds the time after which the work on a request must end.

Leaves look at it between pieces of work. It is both the deadline, which so needs nobody to watch it, and the way to
end the work before: a time that has passed already.
"""

from dataclasses import dataclass
from time import monotonic_ns

import numpy as np

from normtree.engine.memory.tensor import attach
from normtree_kernels.dtypes import Int64Array

_PASSED = 0
STOP_BYTES = 64  # a cache line of its own


class Stopped(Exception):
    """The time after which the work had to end has passed."""


@dataclass(frozen=True)
class Stop:
    """The first word of a segment, by the segment's name: a small value that travels to the workers.

    Args:
        segment: path of the segment.
    """

    segment: str

    def set_ns(self, at_ns: int) -> None:
        """Set the time, as `time.monotonic_ns` tells it: one clock for all processes of a node."""
        self._word()[0] = at_ns

    def now(self) -> None:
        """End the work: leaves stop at their next piece."""
        self.set_ns(_PASSED)

    @property
    def has_passed(self) -> bool:
        """Whether the work must end."""
        return monotonic_ns() >= int(self._word()[0])

    def check(self) -> None:
        """Go on only if the work need not end.

        Raises:
            Stopped: it must.
        """
        if self.has_passed:
            raise Stopped

    def _word(self) -> Int64Array:
        return np.frombuffer(attach(self.segment), np.int64, 1)
