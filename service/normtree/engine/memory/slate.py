"""The slate of a run: a small leased segment on which root and leaves write for each other.

It begins with the `Stop`; then come the aggregates that leaves write and the root reads, and the radii that go the
other way. So a call to a worker carries names and nothing that grows with the tensor.
"""

from collections.abc import Sequence
from math import prod
from time import monotonic_ns
from types import TracebackType
from typing import Self

from normtree.engine.memory.arena import Arena
from normtree.engine.memory.stop import STOP_BYTES, Stop
from normtree.engine.memory.tensor import Tensor
from normtree.errors import WorkersLost

_ALIGNMENT = 64
_ITEM_BYTES = 8


class Slate:
    """Leased for one run, and given back when all of its leaves have ended, or for good where that is not sure.

    Args:
        arena: where.
        shapes: of the float64 arrays that it holds.
        stop_ns: `time.monotonic_ns` after which the work must end.

    Attributes:
        stop: ends the work.
        tensors: the arrays, in the order of ``shapes``; what they hold at first is left from before.

    Raises:
        BodyTooLarge, ArenaFull: as `Arena.lease`, which may wait until the work must end.
    """

    def __init__(self, arena: Arena, shapes: Sequence[tuple[int, ...]], stop_ns: int) -> None:
        offsets, end = [], STOP_BYTES
        for shape in shapes:
            offsets.append(end)
            end += -(-prod(shape) * _ITEM_BYTES // _ALIGNMENT) * _ALIGNMENT
        self._arena = arena
        self._segment = arena.lease(end, wait_s=max(0.0, (stop_ns - monotonic_ns()) / 1e9))
        name = self._segment.name
        self.stop = Stop(name)
        self.stop.set_ns(stop_ns)
        self.tensors = tuple(
            Tensor(name, shape, "float64", offset=offset) for shape, offset in zip(shapes, offsets, strict=True)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, WorkersLost):
            self._arena.retire(self._segment.name)
        self._segment.release()
