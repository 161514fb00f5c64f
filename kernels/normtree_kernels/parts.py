"""Fibres cut into parts: their norms from those of chunks, and their l1 thresholds from rounds over all parts.

A part begins and ends where the chunks of `normtree_kernels.lanes` do. So what is summed over a part, chunk by chunk,
is what the kernels for whole fibres sum, and folding the chunks of all parts gives their bits. The search for an l1
threshold is that of `normtree_kernels.l1.threshold`: it asks for sums, whoever takes them.
"""

from collections.abc import Generator
from typing import Any, cast

import numpy as np
from ml_dtypes import finfo

from normtree_kernels import chunks, l1, l2, sweep
from normtree_kernels.dtypes import Array, Float64Array, Int64Array
from normtree_kernels.fibres import flat, flat_out, lay_out
from normtree_kernels.lanes import CHUNK

INSIDE = -1.0
"""The threshold of a fibre that lies in its ball."""

SAMPLE = l1.SAMPLE
"""First elements of a fibre, from whose threshold the search for its own starts."""

_NO_GRID = -1.0
_NOBODY = np.nan
_LARGEST = np.inf  # in place of a threshold: what is asked is the largest magnitude

_grid, _on_grid, _stepped, _is_near, _limit, _excess, _lowered = (
    cast(Any, function).py_func
    for function in (l1.grid, l1.on_grid, l1.stepped, l1.is_near, l1.limit, l1.excess, l1.lowered)
)

Levels = tuple[Float64Array, Float64Array, Float64Array]
"""Of fibres: their thresholds as `normtree_kernels.l1` has them, tau and low, and the powers of their grids."""

Level = tuple[float, float, float]
"""Of one fibre."""


def merge(array: Array, kept: int, *, copy: bool | None = None) -> Array:
    """Take the axes of fibres as one, in C order, so that parts can be cut out of it.

    Args:
        array: its first ``kept`` axes tell the fibres apart.
        kept: number of axes that stay.
        copy: None copies where no single stride walks the fibres, False raises then.

    Raises:
        ValueError: a copy would be needed, and is not wanted.
    """
    return array.reshape((*array.shape[:kept], -1), copy=copy)


def chunk_norms(norm: str, part: Array) -> Float64Array:
    """Norms of a part's chunks, a row for each chunk; of fibres along the part's last axis."""
    return np.concatenate([sweep.up(norm, each, each.ndim - 1) for each in _by_chunk(part)])


def fold(norm: str, of_chunks: Float64Array) -> Float64Array:
    """Norms of fibres from those of all their chunks, as rows."""
    return sweep.up(norm, np.moveaxis(of_chunks, 0, -1), of_chunks.ndim - 1)


def excesses(part: Array, levels: Levels) -> tuple[Float64Array, Float64Array]:
    """Sums and numbers of what lies above thresholds, a row for each chunk: what a search asks for.

    Args:
        part: fibres along its last axis. Not changed.
        levels: as `Thresholds` asks for them. Tau is NaN where nobody asks, infinite where the largest magnitude is
            asked in place of a sum; the power is negative where sums are taken on no grid.

    Cost:
        Reads the part once.
    """
    results = []
    for each in _by_chunk(part):
        fibres, offsets = _as_rows(each)
        taus, lows, powers = (_line(np.broadcast_to(values, each.shape[:-1])) for values in levels)
        sums, counts = np.empty(taus.size), np.empty(taus.size)
        chunks.excesses(flat(fibres), offsets, each.shape[-1], taus, lows, powers, sums, counts)
        results.append((sums.reshape(each.shape[:-1]), counts.reshape(each.shape[:-1])))
    return np.concatenate([sums for sums, _ in results]), np.concatenate([counts for _, counts in results])


def active(part: Array, mu: Float64Array) -> tuple[Float64Array, Int64Array]:
    """Sums and numbers of a part's magnitudes above levels, a row for each chunk: see `normtree_kernels.sweep.active`.

    Args:
        part: fibres along its last axis. Not changed.
        mu: the fibres' levels, >= 0.
    """
    found = [sweep.active(each, each.ndim - 1, np.broadcast_to(mu, each.shape[:-1])) for each in _by_chunk(part)]
    return np.concatenate([sums for sums, _ in found]), np.concatenate([counts for _, counts in found])


def shrink(part: Array, levels: Levels, out: Array) -> None:
    """Soft-threshold a part of fibres.

    Args:
        part: fibres along its last axis. Not changed.
        levels: as `Thresholds` found them. Tau is `INSIDE` for fibres that stay as they are, infinite for those that
            vanish; results lie on the grid.
        out: of the part's shape and type; overwritten.
    """
    fibres, offsets = _as_rows(part)
    target, _ = _as_rows(out)
    if target is not out:
        target = np.empty(part.shape, fibres.dtype)
    _, out_offsets = _as_rows(target)
    streaming = sweep.streams(target, "rows", part.shape[-1])
    taus, lows, powers = map(_line, levels)
    chunks.shrink(flat(fibres), offsets, part.shape[-1], taus, lows, powers, flat_out(target), out_offsets, streaming)
    if target is not out:
        out[...] = target


def down(norm: str, part: Array, v: Float64Array, u: Float64Array, out: Array) -> None:
    """Project a part of l2 or linf fibres; as `normtree_kernels.sweep.down` whole ones.

    Args:
        norm: ``l2`` or ``linf``.
        part: fibres along its last axis. Not changed.
        v: the norms of the whole fibres.
        u: their radii.
        out: of the part's shape and type; overwritten.
    """
    kept, radii = part.ndim - 1, radii_of_parts(norm, v, u)
    if norm == "linf" or part.shape[-1] > 1:
        sweep.down(norm, part, kept, v, radii, out)
        return
    both = np.concatenate([part, np.zeros_like(part)], axis=-1)  # a fibre of one element would be clipped
    twice = np.empty_like(both)
    sweep.down(norm, both, kept, v, radii, twice)
    out[...] = twice[..., :1]


def radii_of_parts(norm: str, v: Float64Array, u: Float64Array) -> Float64Array:
    """Radii for `normtree_kernels.sweep.down` on parts, which does not see how long their fibres are."""
    return np.where((u < l2.LEAST_OF_CHUNKS) & (u < v), 0.0, u) if norm == "l2" else u


class Thresholds:
    """The search for the l1 thresholds of fibres, all at once.

    Args:
        v: their norms, finite; one axis.
        u: their radii.
        samples: the first `SAMPLE` elements of each, in float64.
        size: elements in a fibre, two chunks or more.
        dtype: of the elements.

    Attributes:
        found: what was found, for `shrink`.
        asked: what is asked, for `excesses`; None when all are found.
    """

    def __init__(
        self, v: Float64Array, u: Float64Array, samples: Float64Array, size: int, dtype: np.dtype[Any]
    ) -> None:
        """Start from the samples."""
        least = float(finfo(dtype).smallest_subnormal)  # type: ignore[no-untyped-call]
        powers = np.array([_grid(rho) for rho in u])
        self.found: Levels = np.where(v <= u, INSIDE, np.inf), np.zeros(v.size), powers
        starts = np.empty(v.size)
        rows = _read_only(np.ascontiguousarray(samples))  # they are read by lanes, whole
        chunks.start(rows, _line(u), size, starts)
        searched = np.flatnonzero((v > u) & (u >= least))  # a smaller radius is nothing when rounded towards zero
        self._searches = {j: _search(float(v[j]), float(u[j]), float(starts[j]), size) for j in searched}
        self._steps = {j: next(search) for j, search in self._searches.items()}
        self.asked = self._ask()

    def answer(self, sums: Float64Array, counts: Float64Array) -> None:
        """Take a step.

        Args:
            sums: a row for each chunk of whole fibres: what `excesses` returned for them.
            counts: the same.
        """
        totals, numbers = fold("l1", sums), counts.sum(axis=0)
        for j, (tau, _, _) in list(self._steps.items()):
            total = sums[:, j].max() if tau == _LARGEST else totals[j]
            try:
                self._steps[j] = self._searches[j].send((float(total), float(numbers[j])))
            except StopIteration as found:
                self.found[0][j], self.found[1][j] = found.value
                del self._steps[j]
        self.asked = self._ask()

    def _ask(self) -> Levels | None:
        if not self._steps:
            return None
        size = self.found[0].size
        taus, lows, powers = np.full(size, _NOBODY), np.zeros(size), np.full(size, _NO_GRID)
        for j, asked in self._steps.items():
            taus[j], lows[j], powers[j] = asked
        return taus, lows, powers


def _search(
    norm: float, rho: float, tau: float, size: int
) -> Generator[Level, tuple[float, float], tuple[float, float]]:
    """The search of `l1.threshold` from its start on, step by step."""
    power = _grid(rho)
    for _ in range(l1.STEPS):
        total, active = yield tau, 0.0, _NO_GRID
        tau = _stepped(tau, total, active, norm, rho, size)
        if _is_near(total, rho) or tau >= _limit(power):
            break
    if tau >= _limit(power):
        return (yield from _apart(rho, power))
    tau = _on_grid(tau, power)
    least = max(power * l1.GRID, float(np.spacing(tau)))
    while True:
        total, active = yield tau, 0.0, power
        if total <= rho:
            return tau, 0.0
        step = (total - rho) / active
        if step < least:
            step = least
            least *= 2.0
        tau = _on_grid(tau + step, power)


def _apart(rho: float, power: float) -> Generator[Level, tuple[float, float], tuple[float, float]]:
    """Its end where the largest element is taken apart."""
    tau, _ = yield _LARGEST, 0.0, _NO_GRID
    low = _excess(rho, 0.0, 0.0, power)
    while True:
        total, active = yield tau, low, power
        if total <= rho:
            return tau, low
        low = _lowered(low, total, active, rho, power)


def _by_chunk(part: Array) -> list[Array]:
    """See a part as rows of whole chunks and one of the rest, if any: each an array (chunks, fibres…, elements)."""
    whole = part.shape[-1] // CHUNK
    views = []
    if whole:
        chunked = part[..., : whole * CHUNK].reshape(*part.shape[:-1], whole, CHUNK)
        views.append(np.moveaxis(chunked, -2, 0))
    if part.shape[-1] % CHUNK:
        views.append(part[..., whole * CHUNK :][np.newaxis])
    return views


def _as_rows(array: Array) -> tuple[Array, Int64Array]:
    """The array, or where its last axis is not of neighbours a copy; and where in its memory each row begins."""
    if lay_out(array.ndim - 1, array).kind != "rows":
        array = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    offsets = np.zeros((), np.int64)
    for length, stride in zip(array.shape[:-1], array.strides[:-1], strict=True):
        offsets = np.add.outer(offsets, np.arange(length) * (stride // array.itemsize))
    return array, offsets.reshape(-1)


def _line(values: Float64Array) -> Float64Array:
    """One row, read-only, as kernels are compiled for."""
    return _read_only(np.ascontiguousarray(values).reshape(-1))


def _read_only(values: Float64Array) -> Float64Array:
    seen = values.view()
    seen.flags.writeable = False
    return seen
