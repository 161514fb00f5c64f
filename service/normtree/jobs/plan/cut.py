"""How a tensor in a file is cut into panels: what a worker reads, sweeps and writes at a time."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil, gcd, prod

from normtree.jobs.plan.layout import Layout
from normtree_kernels.compiled.lanes import CHUNK, chunk_count
from normtree_kernels.parts.gathered import Index

PANEL_BYTES = 1 << 20  # of small rows: what was read is swept, and what was swept is written, out of the caches
MOST_PANEL_BYTES = 1 << 24  # where rows are longer
_COLUMN_PANELS = 4  # so many panels may whole columns take, which spares the rounds over parts of them
_LEAST_RUN_BYTES = 1 << 10  # read or written at a stretch; shorter ones are not worth it

Range = tuple[int, int]


@dataclass(frozen=True)
class Panel:
    """A part of a tensor: ranges of its rows, of its length and of its width; see `Layout`."""

    rows: Range
    length: Range
    width: Range

    @property
    def sides(self) -> tuple[int, int, int]:
        """Its own rows, length and width."""
        return (
            self.rows[1] - self.rows[0],
            self.length[1] - self.length[0],
            self.width[1] - self.width[0],
        )

    @property
    def fibres(self) -> Index:
        """Cuts its fibres out of an array of a value for each."""
        return slice(*self.rows), slice(*self.width), ...

    def within(self, box: "Panel") -> Index:
        """Cuts its fibres out of what the box's fibres cut out of such an array."""
        row, width = box.rows[0], box.width[0]
        return slice(self.rows[0] - row, self.rows[1] - row), slice(self.width[0] - width, self.width[1] - width), ...


@dataclass(frozen=True)
class Cut:
    """A tensor cut into panels, numbered in the order of their bytes.

    Args:
        layout: of the tensor.
        rows: rows of a panel; where it is no whole row, 1.
        length: of a panel; if less than the layout's, fibres are cut, where the chunks of
            `normtree_kernels.compiled.lanes` end, so that sums keep their shape.
        width: of a panel.
        ranks: whether elements will be ranked, so that even whole fibres answer in chunks.
    """

    layout: Layout
    rows: int
    length: int
    width: int
    ranks: bool = False

    @cached_property
    def is_across(self) -> bool:
        """Whether panels hold parts of fibres."""
        return self.lengths > 1

    @cached_property
    def in_chunks(self) -> bool:
        """Whether panels answer chunk by chunk; see `normtree_kernels.parts.part.Part`."""
        return self.is_across or self.ranks

    @cached_property
    def slots(self) -> int:
        """Slots of a fibre's answers: its chunks, or one where it is not cut."""
        return chunk_count(self.layout.fibre) if self.in_chunks else 1

    @cached_property
    def lengths(self) -> int:
        """Number of panels along the length."""
        return ceil(self.layout.length / self.length)

    @cached_property
    def widths(self) -> int:
        """Number of panels across the width."""
        return ceil(self.layout.width / self.width)

    @cached_property
    def count(self) -> int:
        """Number of panels."""
        return ceil(self.layout.rows / self.rows) * self.lengths * self.widths

    @cached_property
    def panel_bytes(self) -> int:
        """Bytes of the largest panel."""
        return min(self.rows, self.layout.rows) * self.length * self.width * self.layout.rest_bytes

    @cached_property
    def in_rows(self) -> "Cut":
        """The same tensor cut into panels of whole rows, whatever their size."""
        rows = max(1, PANEL_BYTES // self.layout.row_bytes)
        return replace(self, rows=rows, length=self.layout.length, width=self.layout.width)

    def panel(self, index: int) -> Panel:
        """Return a panel by its number."""
        row, inside = divmod(index, self.lengths * self.widths)
        along, across = divmod(inside, self.widths)
        return Panel(
            (row * self.rows, min((row + 1) * self.rows, self.layout.rows)),
            (along * self.length, min((along + 1) * self.length, self.layout.length)),
            (across * self.width, min((across + 1) * self.width, self.layout.width)),
        )

    def panels(self, first: int, last: int) -> Iterator[Panel]:
        """Go through panels ``first`` to ``last``, without it."""
        return map(self.panel, range(first, last))

    def box(self, first: int, last: int) -> Panel:
        """The panel that encloses panels ``first`` to ``last``, without it."""
        a, b = self.panel(first), self.panel(last - 1)
        in_line = a.rows == b.rows and a.length == b.length
        width = (a.width[0], b.width[1]) if in_line else (0, self.layout.width)
        return Panel((a.rows[0], b.rows[1]), (a.length[0], b.length[1]), width)

    def start(self, panel: Panel) -> int:
        """The first element of a panel's parts of fibres."""
        return panel.length[0] * self.layout.step

    def slots_of(self, panel: Panel) -> slice:
        """Where a panel's slots lie among all."""
        if not self.in_chunks:
            return slice(0, 1)
        return slice(self.start(panel) // CHUNK, chunk_count(panel.length[1] * self.layout.step))

    def nbytes(self, panel: Panel) -> int:
        """Bytes of a panel."""
        return prod(panel.sides) * self.layout.rest_bytes

    def runs(self, panel: Panel) -> Iterator[Range]:
        """Where in the tensor's bytes a panel lies: its stretches, each with the byte after its last, in order."""
        layout, unit = self.layout, self.layout.rest_bytes
        rows, length, width = panel.sides
        if width == layout.width and (length == layout.length or rows == 1):
            start = (panel.rows[0] * layout.length + panel.length[0]) * layout.width * unit
            yield start, start + rows * length * width * unit
            return
        for row in range(*panel.rows):
            for along in range(*panel.length):
                start = ((row * layout.length + along) * layout.width + panel.width[0]) * unit
                yield start, start + width * unit


def cut_up(layout: Layout, panel_bytes: int, *, in_rounds: bool, in_order: bool) -> Cut:
    """Cut a tensor so that panels take little memory.

    Small rows stay whole. Longer ones are cut along their fibres, so that what is read and written lies together;
    where even the least part of all fibres, a chunk of each, is too large, across the width too.

    Args:
        layout: of the tensor.
        panel_bytes: what a panel takes at most, if that can be; four of them may whole columns take.
        in_rounds: whether parts of fibres would have to be read in several rounds, and whole ones not.
        in_order: whether the file is read or written from its start to its end, so that nothing can be cut across.
    """
    unit = CHUNK // gcd(CHUNK, layout.step)
    is_divisible = layout.length >= 2 * unit
    if layout.row_bytes <= panel_bytes:
        rows = max(1, min(PANEL_BYTES, panel_bytes) // layout.row_bytes)
        return Cut(layout, rows, layout.length, layout.width)
    whole = min(layout.width, _COLUMN_PANELS * panel_bytes // (layout.length * layout.rest_bytes))
    is_long = whole * layout.rest_bytes >= _LEAST_RUN_BYTES or whole == layout.width
    if in_rounds and not in_order and whole and is_long:
        return Cut(layout, 1, layout.length, whole)
    line_bytes = layout.width * layout.rest_bytes
    if is_divisible and (in_order or unit * line_bytes <= panel_bytes):
        return Cut(layout, 1, max(1, panel_bytes // (unit * line_bytes)) * unit, layout.width)
    if in_order:
        return Cut(layout, 1, layout.length, layout.width)
    length = unit if is_divisible else layout.length
    return Cut(layout, 1, length, max(1, panel_bytes // (length * layout.rest_bytes)))
