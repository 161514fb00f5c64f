"""What a projection asks of all parts of a tensor, as plain data.

Most questions are about fibres: a part answers with arrays of slots by fibres (see `normtree_kernels.parts.part.Part`),
and `normtree_kernels.parts.gathered.Gathered` puts those of all parts in their places. Others are about elements, and
what parts answer is added.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np

from normtree_kernels.dtypes import Array, Float64Array
from normtree_kernels.parts import ranks
from normtree_kernels.parts.part import Part
from normtree_kernels.sweeps import chunks, sweep
from normtree_kernels.sweeps.threshold import SAMPLE
from normtree_kernels.vector_norm import Norm

Answer = tuple[Array, ...]

_UNSAID = np.empty(0)


class Question:
    """A question.

    Attributes:
        is_added: whether parts' answers are added; if not, each is put in its place among the slots and fibres.
        by_chunk: whether it is answered chunk by chunk where fibres are cut; if not, in one slot.
        dtypes: of the answer's arrays.
        tail: lengths of the axes that an answer's arrays have after those of slots and fibres.
        about: names of the fields that have a value for each fibre.
    """

    is_added: ClassVar[bool] = False
    by_chunk: ClassVar[bool] = True
    dtypes: ClassVar[tuple[str, ...]]
    tail: ClassVar[tuple[int, ...]] = ()
    about: ClassVar[tuple[str, ...]] = ()

    @property
    def values(self) -> tuple[Float64Array, ...]:
        """What it says of each fibre."""
        return tuple(getattr(self, name) for name in self.about)

    def with_values(self, values: Sequence[Float64Array]) -> Self:
        """The same, saying that of each fibre, or nothing: so that it is sent without, or to a part of the fibres."""
        if not self.about:
            return self
        given: Any = values or [_UNSAID] * len(self.about)
        return replace(self, **dict(zip(self.about, given, strict=True)))  # type: ignore[type-var]

    def concerns(self, start: int) -> bool:
        """Whether it is about a part of fibres that begins at that element of theirs."""
        return True

    def of(self, part: Part) -> Answer:
        """Answer for a part, whose fibres are those that the question says something of."""
        raise NotImplementedError


@dataclass(frozen=True)
class Norms(Question):
    """The norms of the fibres."""

    norm: Norm
    dtypes = ("float64",)

    def of(self, part: Part) -> Answer:
        """Answer with norms."""
        return (part.norms(self.norm),)


@dataclass(frozen=True)
class Active(Question):
    """The sums and the numbers of the magnitudes above the fibres' levels ``mu``."""

    mu: Float64Array
    dtypes = ("float64", "int64")
    about = ("mu",)

    def of(self, part: Part) -> Answer:
        """Answer with sums and counts."""
        if not part.in_chunks:
            sums, counts = sweep.active(part.fibres, part.kept, self.mu)
            return sums[np.newaxis], counts[np.newaxis]
        found = [sweep.active(each, each.ndim - 1, np.broadcast_to(self.mu, each.shape[:-1])) for each in part.chunks()]
        return np.concatenate([sums for sums, _ in found]), np.concatenate([counts for _, counts in found])


@dataclass(frozen=True)
class Excess(Question):
    """The sums and the numbers of what lies above l1 thresholds, by chunks; see `normtree_kernels.parts.rounds`."""

    tau: Float64Array
    low: Float64Array
    power: Float64Array
    dtypes = ("float64", "float64")
    about = ("tau", "low", "power")

    def of(self, part: Part) -> Answer:
        """Answer with sums and counts."""
        levels = self.tau, self.low, self.power
        found = [chunks.excesses(each, levels) for each in part.chunks()]
        return np.concatenate([sums for sums, _ in found]), np.concatenate([counts for _, counts in found])


@dataclass(frozen=True)
class Samples(Question):
    """The first elements of the fibres, in float64: where the search for their thresholds starts."""

    by_chunk = False
    dtypes = ("float64",)
    tail = (SAMPLE,)

    def concerns(self, start: int) -> bool:
        """Only parts with the beginnings of fibres are asked."""
        return start == 0

    def of(self, part: Part) -> Answer:
        """Answer with the elements."""
        return (part.rows[np.newaxis, ..., :SAMPLE].astype(np.float64),)


@dataclass(frozen=True)
class Digits(Question):
    """How many magnitudes have which digit; see `normtree_kernels.parts.ranks.digits`."""

    high: int
    low: int
    prefix: int
    is_added = True
    by_chunk = False
    dtypes = ("int64",)

    def of(self, part: Part) -> Answer:
        """Answer with counts."""
        return (ranks.digits(part.elements(), self.high, self.low, self.prefix),)


@dataclass(frozen=True)
class Above(Question):
    """The exact sum, and the number, of all elements above a threshold; see `normtree_kernels.parts.ranks`."""

    tau: float
    is_added = True
    by_chunk = False
    dtypes = ("int64", "int64")

    def of(self, part: Part) -> Answer:
        """Answer with the sum in parts, and the count."""
        sums, count = ranks.above(part.elements(), self.tau)
        return sums, np.array(count)


@dataclass(frozen=True)
class Shared(Question):
    """The root of several tensors, asked of whoever has the norms of them all; the answer is a `Crown`.

    Args:
        v: the fibres' norms of the one that asks, in the norm's order of axes.
    """

    v: Float64Array
    dtypes: ClassVar[tuple[Any, ...]] = ()
