"""Room for one request: the tensors that came, and the projections of those that are projected."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from normtree.engine.memory.arena import Arena, Segment, segment_bytes
from normtree.engine.memory.tensor import Tensor
from normtree.formats.contents import Entry
from normtree.http.inference.shared_regions import Use

# A line of the caches, at which large tensors begin, for kernels write past the caches only from there; small ones
# follow each other closely, so that together they take no more than the body that they came in.
_ALIGNMENT = 64
_CLOSE_ALIGNMENT = 8
_LARGE_BYTES = 2**16


@dataclass(frozen=True)
class Own:
    """Memory of this process, freed when nobody looks at it any more: enough for small tensors that stay in it."""

    buffer: memoryview


@dataclass(frozen=True)
class Place:
    """Where one tensor is in a segment.

    Args:
        segment: the lease, whose buffer is empty once it has been released; or memory of our own.
        offset: bytes of it before the tensor.
        nbytes: bytes of the tensor.
    """

    segment: Segment | Own
    offset: int
    nbytes: int

    @property
    def view(self) -> memoryview:
        """The tensor's bytes, writable."""
        return self.segment.buffer[self.offset : self.offset + self.nbytes]

    def tensor(self, shape: tuple[int, ...], dtype: str, order: Literal["C", "F"] = "C") -> Tensor:
        """Return a tensor of these bytes."""
        if isinstance(self.segment, Own):
            return Tensor("", shape, dtype, order, self.offset, self.segment.buffer)
        return Tensor(self.segment.name, shape, dtype, order, self.offset)


@dataclass(frozen=True)
class Room:
    """The two segments of one request, or memory of this process in their place.

    Attributes:
        sources: by name, where each tensor of the body goes.
        targets: by name, where each projection goes.
        lent: a client's shared memory for the only tensor, as ``source`` or ``target``, where it is in neither.
    """

    sources: dict[str, Place]
    targets: dict[str, Place]
    _arena: Arena
    lent: Mapping[str, Use] = field(default_factory=dict)

    @classmethod
    def lease(cls, arena: Arena, arriving: Sequence[Entry], leaving: Sequence[Entry], held: ExitStack) -> "Room":
        """Lease all at once, so that no request receives a tensor and then finds no room for the answer.

        Args:
            arena: where.
            arriving: the tensors that will come; where there are none, no segment is leased for them.
            leaving: those of which there will be projections; likewise.
            held: what releases the segments.

        Raises:
            BodyTooLarge: the arena could never hold both segments.
            ArenaFull: there is no room for both; ``held`` may hold one of them.
        """
        parts = [_place(entries) for entries in (arriving, leaving) if entries]
        arena.check_fits(*(nbytes for _, nbytes in parts))
        leased = [_lease(arena, places, nbytes, held) for places, nbytes in parts]
        sources = leased.pop(0) if arriving else {}
        targets = leased.pop(0) if leaving else {}
        return cls(sources, targets, arena)

    @classmethod
    def own(cls, arena: Arena, arriving: Sequence[Entry], leaving: Sequence[Entry]) -> "Room":
        """Take memory of this process, for a small request whose tensors need not be seen in another."""
        return cls(_own(arriving), _own(leaving), arena)

    def source(self, entry: Entry) -> Tensor:
        """Return a tensor as it came, once its bytes are in native order."""
        place = self.sources.get(entry.name)
        return place.tensor(entry.shape, entry.dtype, entry.order) if place else self.lent["source"].tensor

    def target(self, entry: Entry) -> Tensor:
        """Return where a tensor's projection goes."""
        place = self.targets.get(entry.name)
        return place.tensor(entry.shape, entry.dtype) if place else self.lent["target"].tensor

    def release_sources(self) -> None:
        """Release the tensors that came before their projections: the answer may take its client long."""
        for place in self.sources.values():
            if isinstance(place.segment, Segment):
                place.segment.release()

    def retire(self, *, sources: bool) -> None:
        """Keep the segments from being used again once they are released: someone may still read them.

        Args:
            sources: whether the one of the tensors that came is among them.
        """
        for places in (self.targets, self.sources if sources else {}):
            for place in places.values():
                if isinstance(place.segment, Segment):
                    self._arena.retire(place.segment.name)


def room_bytes(arriving: Sequence[Entry], leaving: Sequence[Entry]) -> int:
    """Return the bytes that the arena sets aside for a request's room."""
    return sum(segment_bytes(_place(entries)[1]) for entries in (arriving, leaving) if entries)


def _lease(arena: Arena, places: dict[str, tuple[int, int]], nbytes: int, held: ExitStack) -> dict[str, Place]:
    segment = held.enter_context(arena.lease(nbytes))
    return {name: Place(segment, *where) for name, where in places.items()}


def _own(entries: Sequence[Entry]) -> dict[str, Place]:
    places, nbytes = _place(entries)
    memory = Own(np.empty(nbytes, np.uint8).data)
    return {name: Place(memory, *where) for name, where in places.items()}


def _place(entries: Sequence[Entry]) -> tuple[dict[str, tuple[int, int]], int]:
    """Place tensors one behind the other, aligned; return their offsets and lengths, and all bytes they take."""
    places: dict[str, tuple[int, int]] = {}
    end = 0
    for entry in entries:
        alignment = _ALIGNMENT if entry.nbytes >= _LARGE_BYTES else _CLOSE_ALIGNMENT
        start = -(-end // alignment) * alignment
        end = start + entry.nbytes
        places[entry.name] = (start, entry.nbytes)
    return places, end
