"""One projection as a piece of work for a thread: the bytes as they came, to the bytes as they go."""

from contextlib import ExitStack
from dataclasses import dataclass
from time import perf_counter
from typing import Literal

import numpy as np

from normtree.engine.arena import Arena, Segment
from normtree.engine.plan import Plan
from normtree.engine.projector import Baseline, Projector
from normtree.engine.tensor import Tensor
from normtree.engine.timing import Timing
from normtree.http.bodies.npy import NpyHeader

_LEAST_DEADLINE_S = 1e-3


@dataclass(frozen=True)
class Pair:
    """The two segments of one request: the tensor's, and its projection's."""

    source: Segment
    target: Segment
    _arena: Arena

    @classmethod
    def lease(cls, arena: Arena, nbytes: int, held: ExitStack) -> "Pair":
        """Lease both at once, so that no request receives a tensor and then finds no room for the answer.

        Args:
            arena: where.
            nbytes: of either.
            held: what releases them.

        Raises:
            BodyTooLarge: the arena could never hold both.
            ArenaFull: there is no room for both; ``held`` may hold one of them.
        """
        arena.check_fits(nbytes, nbytes)
        source = held.enter_context(arena.lease(nbytes))
        return cls(source, held.enter_context(arena.lease(nbytes)), arena)

    def release_source(self) -> None:
        """Release the source before the target: the answer may take its client long."""
        self.source.release()

    def retire_target(self) -> None:
        """Keep the target from being used again once it is released: someone may still read it."""
        self._arena.retire(self.target.name)


@dataclass(frozen=True)
class Projection:
    """What is to be done with the bytes that a request has put into its source segment.

    Attributes:
        header: what the body's header says of them.
        plan: for the tensor's shape and dtype.
        pair: the request's segments.
        baseline: whether the serial reference is run too.
        submitted: `time.perf_counter` when the work was handed to the threads.
        deadline_s: seconds after that by which it must be done.
    """

    header: NpyHeader
    plan: Plan
    pair: Pair
    baseline: Baseline
    submitted: float
    deadline_s: float

    @property
    def dtype(self) -> str:
        """The answer's element type: little-endian, whatever the input's order."""
        return f"<{self.header.dtype[1:]}"

    @property
    def conversions(self) -> tuple[str, ...]:
        """What of the input's layout the answer does not keep."""
        fortran = ("fortran-order",) if self.header.fortran_order else ()
        return (*fortran, "big-endian") if self._is_big_endian else fortran

    def run(self, projector: Projector) -> Timing:
        """Project, and leave the result in the target segment; blocks.

        Raises:
            NormtreeError: what `normtree.engine.projector.Projector.project` raises.
        """
        begun = perf_counter()
        if self._is_big_endian:
            np.frombuffer(self.pair.source.buffer, self.header.dtype).byteswap(inplace=True)
        decoded = perf_counter()
        order: Literal["C", "F"] = "F" if self.header.fortran_order else "C"
        source = Tensor(self.pair.source.name, self.header.shape, self.dtype, order)
        target = Tensor(self.pair.target.name, self.header.shape, self.dtype, "C")
        left_s = self.submitted + self.deadline_s - decoded
        timing = projector.project(
            source, target, self.plan, baseline=self.baseline, deadline_s=max(left_s, _LEAST_DEADLINE_S)
        )
        return timing.with_stages(queue=ms(self.submitted, begun), decode=ms(begun, decoded))

    @property
    def _is_big_endian(self) -> bool:
        return self.header.dtype.startswith(">")


def ms(start: float, stop: float) -> float:
    """Return the milliseconds between two readings of `time.perf_counter`."""
    return 1e3 * (stop - start)
