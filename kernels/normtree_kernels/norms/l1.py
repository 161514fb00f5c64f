"""The l1 norm: sum of magnitudes; its ball is projected onto by soft-thresholding."""

from collections.abc import Generator
from typing import Any

import numpy as np

from normtree_kernels.compiled.elements import narrow
from normtree_kernels.compiled.jit import device, kernel
from normtree_kernels.compiled.lanes import CHUNK
from normtree_kernels.compiled.lines import drain
from normtree_kernels.dtypes import Array, Float64Array, Int64Array
from normtree_kernels.norms.linf import LINF
from normtree_kernels.parts import rounds
from normtree_kernels.sweeps import chunks, columns, rows, threshold
from normtree_kernels.sweeps.sums import chunk_sum, column_sums
from normtree_kernels.sweeps.sweep import read_only_line
from normtree_kernels.sweeps.transpose import pack_columns
from normtree_kernels.vector_norm import Balls, Norm, Seen

PANEL = 32  # columns packed together for their thresholds
PANEL_ELEMENTS = 1 << 17
PAD = 32


@device
def _project(
    x: Array,
    first: int,
    length: int,
    whole: int,
    v: float,
    u: float,
    limits: Array,
    partials: Float64Array,
    out: Array,
    at: int,
    streaming: bool,
) -> None:
    """Soft-threshold a whole fibre."""
    tau, low = threshold.threshold(x[first : first + length], v, u, partials)
    threshold.shrink(x, first, length, tau, low, threshold.grid(u), out, at, streaming)


@kernel
def _thresholds(
    x: Array,
    offsets: Int64Array,
    length: int,
    step: int,
    width: int,
    v: Float64Array,
    u: Float64Array,
    taus: Float64Array,
    lows: Float64Array,
    powers: Float64Array,
) -> None:
    """Write the columns' l1 thresholds, -1 inside the ball and infinity where a column vanishes, and their grids.

    They are tau - low, as `normtree_kernels.sweeps.threshold` has them. A few columns at a time are packed to rows, to
    be read again and again from the cache.
    """
    panel = max(1, min(PANEL, PANEL_ELEMENTS // length))
    room = length + PAD  # so that the same element of neighbouring columns falls into different cache sets
    packed, partials = np.empty(panel * room, x.dtype), np.empty(length // CHUNK + 1)
    for o in range(offsets.size):
        for start in range(0, width, panel):
            count = min(panel, width - start)
            pack_columns(x, offsets[o] + start, length, step, count, packed, room)
            for k in range(count):
                j = o * width + start + k
                lows[j], powers[j] = 0.0, threshold.grid(u[j])
                if v[j] <= u[j]:
                    taus[j] = -1.0
                elif narrow(u[j], x[0]) == narrow(0.0, x[0]):
                    taus[j] = np.inf
                else:
                    taus[j], lows[j] = threshold.threshold(packed[k * room : k * room + length], v[j], u[j], partials)


@kernel
def _shrink_columns(
    x: Array,
    offsets: Int64Array,
    length: int,
    step: int,
    width: int,
    taus: Float64Array,
    lows: Float64Array,
    powers: Float64Array,
    out: Array,
    out_offsets: Int64Array,
    out_step: int,
    streaming: bool,
) -> None:
    """Soft-threshold each column, row after row of memory.

    Where ``streaming``, rows are written past the caches.
    """
    together = columns.rows_together(out, out_step, streaming)
    for k in range(offsets.size):
        here = slice(k * width, (k + 1) * width)
        levels, lowered, grids = taus[here], lows[here], powers[here]
        for i in range(0, length, together):
            at, to = offsets[k] + i * step, out_offsets[k] + i * out_step
            count = min(together, length - i)
            threshold.shrink_rows(x, at, step, levels, lowered, grids, out, to, out_step, count, streaming)
    if streaming:
        drain()


def _columns_down(
    x: Array,
    offsets: Int64Array,
    length: int,
    step: int,
    width: int,
    whole: int,
    v: Float64Array,
    u: Float64Array,
    out: Array,
    out_offsets: Int64Array,
    out_step: int,
    streaming: bool,
) -> None:
    """Project columns: find their thresholds, and shrink row after row."""
    tau, low, power = np.empty((3, v.size))
    _thresholds(x, offsets, length, step, width, v, u, tau, low, power)
    tau, low, power = map(read_only_line, (tau, low, power))
    _shrink_columns(x, offsets, length, step, width, tau, low, power, out, out_offsets, out_step, streaming)


class _L1(Norm):
    """The sum of magnitudes. Groups vanish under it, and it is the only norm whose projection is a search."""

    name = "l1"
    dual = "linf"
    rows_up = staticmethod(rows.up(__name__, chunk_sum, chunk_sum))
    rows_down = staticmethod(rows.down(__name__, _project))
    columns_up = staticmethod(columns.up(__name__, column_sums))
    columns_down = staticmethod(_columns_down)
    searches = True
    vanishes = True
    piece_bytes = 1 << 24  # thresholds take longer than clipping and scaling
    widening = 1  # and gain nothing by longer runs

    @property
    def of_one(self) -> Norm:
        """An interval, as for every norm that is the magnitude there."""
        return LINF

    def growth(self, count: int) -> float:
        """Their number."""
        return float(count)

    def search(
        self, v: Float64Array, u: Float64Array, size: int, dtype: np.dtype[Any], seen: Seen | None = None
    ) -> Generator[Any, Any, Balls]:
        """Search the thresholds of fibres that are cut; as `normtree_kernels.parts.rounds.search`."""
        levels, _ = yield from rounds.search(self, v, u, size, dtype, seen)
        return levels

    def project_chunks(self, part: Array, balls: Balls, out: Array) -> None:
        """Soft-threshold parts of fibres."""
        tau, low, power = balls
        chunks.shrink(part, (tau, low, power), out)

    def reference_norm(self, values: Float64Array) -> Float64Array:
        """The sum."""
        return np.asarray(values.sum(axis=-1))

    def reference_project(self, values: Float64Array, radius: float) -> Float64Array:
        """Soft-threshold at the sorted vector's threshold.

        For a small radius elements and threshold are taken from the largest element on: sums of the elements
        themselves could not tell such a radius.
        """
        origin = values.max() if radius < values.max() / 2 else 0.0
        descending = np.sort(values - origin)[::-1]
        thresholds = (np.cumsum(descending) - radius) / np.arange(1, values.size + 1)
        active = np.flatnonzero(descending > thresholds)
        tau = thresholds[active[-1]] if active.size else descending[0]
        return np.asarray(np.maximum((values - origin) - tau, 0.0))


L1 = _L1()
