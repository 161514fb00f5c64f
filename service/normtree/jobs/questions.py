"""What a search asks of all panels of a tensor between its sweeps, and how answers of panels become one.

Most questions are about fibres. A panel answers with an array (rows, chunks, width, rest…) of its own part of them,
and `Gathered` puts the parts together; where fibres are cut, `fold` sums over their chunks in the fixed shape.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from normtree.jobs.cut import Cut, Panel
from normtree_kernels import parts, ranks, sweep
from normtree_kernels.dtypes import Array, Float64Array, Int64Array

Answer = tuple[Array, ...]


@dataclass(frozen=True)
class Held:
    """A panel that is in memory.

    Args:
        cut: which cuts the tensor.
        panel: where the panel is.
        elements: its bytes, contiguous.
    """

    cut: Cut
    panel: Panel
    elements: Array

    @property
    def fibres(self) -> Array:
        """Its elements, the axes that tell fibres apart first."""
        _, length, width = self.panel.sides
        return self.cut.layout.fibres(self.elements, length, width)

    @property
    def parts(self) -> Array:
        """Its parts of fibres along the last axis; a copy where no single stride walks them."""
        return parts.merge(self.fibres, self.cut.layout.kept)

    def norms(self, norm: str) -> Float64Array:
        """Norms of its fibres, or of their chunks: (rows, chunks, width, rest…)."""
        if self.cut.is_across:
            return np.moveaxis(parts.chunk_norms(norm, self.parts), 0, 1)
        return sweep.up(norm, self.fibres, self.cut.layout.kept)[:, np.newaxis]


class Question(Protocol):
    """A question, as plain data."""

    @property
    def is_added(self) -> bool:
        """Whether panels' answers are added; if not, each is a part of an array over all fibres."""

    @property
    def by_chunk(self) -> bool:
        """Whether it is answered chunk by chunk, where fibres are cut."""

    def within(self, box: Panel) -> "Question":
        """The question as far as it concerns the fibres in a box."""

    def concerns(self, panel: Panel) -> bool:
        """Whether a panel has to be read for it."""

    def of(self, held: Held, box: Panel) -> Answer:
        """Answer for a panel, when asked within a box."""


class _OfFibres:
    is_added, by_chunk = False, True

    def concerns(self, panel: Panel) -> bool:
        return True

    def within(self, box: Panel) -> Question:
        return self  # type: ignore[return-value]


class _OfElements(_OfFibres):
    is_added, by_chunk = True, False


@dataclass(frozen=True)
class Sums(_OfFibres):
    """The sums of the fibres' magnitudes."""

    def of(self, held: Held, box: Panel) -> Answer:
        """Answer with sums."""
        return (held.norms("l1"),)


@dataclass(frozen=True)
class Active(_OfFibres):
    """The sums and the numbers of the magnitudes above the fibres' levels ``mu``."""

    mu: Float64Array

    def within(self, box: Panel) -> Question:
        """Restrict the levels."""
        return Active(inside(self.mu, box))

    def of(self, held: Held, box: Panel) -> Answer:
        """Answer with sums and counts."""
        mu = outside(self.mu, box, held.panel)
        if held.cut.is_across:
            sums, counts = parts.active(held.parts, mu)
            return np.moveaxis(sums, 0, 1), np.moveaxis(counts, 0, 1)
        sums, counts = sweep.active(held.fibres, held.cut.layout.kept, mu)
        return sums[:, np.newaxis], counts[:, np.newaxis]


@dataclass(frozen=True)
class Excess(_OfFibres):
    """What lies above the thresholds of fibres that are cut; see `normtree_kernels.parts.excesses`."""

    levels: parts.Levels

    def within(self, box: Panel) -> Question:
        """Restrict the thresholds."""
        taus, lows, powers = (inside(values, box) for values in self.levels)
        return Excess((taus, lows, powers))

    def of(self, held: Held, box: Panel) -> Answer:
        """Answer with sums and counts."""
        taus, lows, powers = (outside(values, box, held.panel) for values in self.levels)
        sums, counts = parts.excesses(held.parts, (taus, lows, powers))
        return np.moveaxis(sums, 0, 1), np.moveaxis(counts, 0, 1)


@dataclass(frozen=True)
class Samples(_OfFibres):
    """The first elements of fibres that are cut, in float64: where the search for their thresholds starts."""

    by_chunk = False

    def concerns(self, panel: Panel) -> bool:
        """Only panels with the beginnings of fibres have to be read."""
        return panel.length[0] == 0

    def of(self, held: Held, box: Panel) -> Answer:
        """Answer with the elements."""
        return (held.parts[:, np.newaxis, ..., : parts.SAMPLE].astype(np.float64),)


@dataclass(frozen=True)
class Digits(_OfElements):
    """How many magnitudes have which digit; see `normtree_kernels.ranks.digits`."""

    high: int
    low: int
    prefix: int

    def of(self, held: Held, box: Panel) -> Answer:
        """Answer with counts."""
        elements = held.elements.view(held.cut.layout.element)
        return (ranks.digits(elements, self.high, self.low, self.prefix),)


@dataclass(frozen=True)
class Above(_OfElements):
    """The exact sum of what lies above a threshold of all elements, and how many do."""

    tau: float

    def of(self, held: Held, box: Panel) -> Answer:
        """Answer with the sum in parts, and the count."""
        sums, count = ranks.above(held.elements.view(held.cut.layout.element), self.tau)
        return sums, np.array(count)


class Gathered:
    """Answers of panels that become one of the whole tensor.

    Args:
        cut: which cuts the tensor.
        is_added: as the question says.
        by_chunk: as the question says.
    """

    def __init__(self, cut: Cut, *, is_added: bool = False, by_chunk: bool = True) -> None:
        """Begin with none."""
        self._cut, self._is_added, self._by_chunk = cut, is_added, by_chunk
        self._left = cut.count
        self.whole: Answer = ()

    def take(self, first: int, answers: tuple[Answer, ...]) -> bool:
        """Take answers of panels from number ``first`` on, and tell whether all are there."""
        for panel, answer in zip(self._cut.panels(first, first + len(answers)), answers, strict=True):
            if answer and self._is_added:
                self.whole = tuple(map(np.add, self.whole, answer)) if self.whole else answer
            elif answer:
                self._put(panel, answer)
        self._left -= len(answers)
        return not self._left

    def _put(self, panel: Panel, answer: Answer) -> None:
        rows, *kept = self._cut.layout.v_shape
        chunks, here = (self._cut.chunks, self._cut.chunk_range(panel)) if self._by_chunk else (1, (0, 1))
        if not self.whole:
            shape = (rows, chunks, *kept)
            self.whole = tuple(np.empty((*shape, *each.shape[len(shape) :]), each.dtype) for each in answer)
        place = tuple(slice(*side) for side in (panel.rows, here, panel.width))
        for whole, part in zip(self.whole, answer, strict=True):
            whole[place] = part


def fold(norm: str, found: Float64Array) -> Float64Array:
    """Norms of whole fibres from those of their chunks: (rows, width, rest…)."""
    return found[:, 0] if found.shape[1] == 1 else parts.fold(norm, np.moveaxis(found, 1, 0))


def inside(values: Array, box: Panel) -> Array:
    """The fibres' values within a box."""
    return values[slice(*box.rows), slice(*box.width)]


def outside(values: Array, box: Panel, panel: Panel) -> Array:
    """A panel's share of the values within a box."""
    row, width = box.rows[0], box.width[0]
    return values[panel.rows[0] - row : panel.rows[1] - row, panel.width[0] - width : panel.width[1] - width]


def added(counts: Int64Array | Float64Array) -> Array:
    """Counts of whole fibres from those of their chunks."""
    total: Array = counts.sum(axis=1)
    return total
