"""Fibres cut into parts: their norms from those of chunks, and their l1 thresholds from rounds over all parts.

A part begins and ends where the chunks of `normtree_kernels.lanes` do. So what is summed over a part, chunk by chunk,
is what the kernels for whole fibres sum, and folding the chunks of all parts gives their bits. The search for an l1
threshold is that of `normtree_kernels.l1.threshold`: it asks for sums, whoever takes them.
"""

from collections.abc import Generator
from typing import Any, cast

import numpy as np
from ml_dtypes import finfo

from normtree_kernels import chunks, l1, sweep
from normtree_kernels.dtypes import Array, Float64Array, Int64Array
from normtree_kernels.fibres import flat, flat_out, lay_out
from normtree_kernels.lanes import CHUNK

INSIDE = -1.0
"""The threshold of a fibre that lies in its ball."""

SAMPLE = l1.SAMPLE
"""First elements of a fibre, from whose threshold the search for its own starts."""

_NO_GRID = -1.0
_NOBODY = np.nan

_grid, _on_grid, _stepped, _is_near = (
    cast(Any, function).py_func for function in (l1.grid, l1.on_grid, l1.stepped, l1.is_near)
)


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


def excesses(part: Array, taus: Float64Array, powers: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Sums and numbers of what lies above thresholds, a row for each chunk: what a search asks for.

    Args:
        part: fibres along its last axis. Not changed.
        taus: the fibres' thresholds, NaN for those of which nobody asks.
        powers: of the grid on which sums are taken, negative for none.

    Cost:
        Reads the part once.
    """
    results = []
    for each in _by_chunk(part):
        fibres, offsets = _as_rows(each)
        levels, grids = (_line(np.broadcast_to(values, each.shape[:-1])) for values in (taus, powers))
        sums, counts = np.empty(levels.size), np.empty(levels.size)
        chunks.excesses(flat(fibres), offsets, each.shape[-1], levels, grids, sums, counts)
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


def shrink(part: Array, taus: Float64Array, powers: Float64Array, out: Array) -> None:
    """Soft-threshold a part of fibres.

    Args:
        part: fibres along its last axis. Not changed.
        taus: their thresholds, `INSIDE` for those that stay as they are, infinite for those that vanish.
        powers: of the grids on which results lie.
        out: of the part's shape and type; overwritten.
    """
    fibres, offsets = _as_rows(part)
    target, _ = _as_rows(out)
    if target is not out:
        target = np.empty(part.shape, fibres.dtype)
    _, out_offsets = _as_rows(target)
    streaming = sweep.streams(target, "rows", part.shape[-1])
    chunks.shrink(
        flat(fibres), offsets, part.shape[-1], _line(taus), _line(powers), flat_out(target), out_offsets, streaming
    )
    if target is not out:
        out[...] = target


class Thresholds:
    """The search for the l1 thresholds of fibres, all at once.

    Args:
        v: their norms, finite; one axis.
        u: their radii.
        samples: the first `SAMPLE` elements of each, in float64.
        size: elements in a fibre, two chunks or more.
        dtype: of the elements.

    Attributes:
        taus: the thresholds found, for `shrink`.
        powers: of the grids on which results lie.
        asked: thresholds and powers for `excesses`; None when all are found.
    """

    def __init__(
        self, v: Float64Array, u: Float64Array, samples: Float64Array, size: int, dtype: np.dtype[Any]
    ) -> None:
        """Start from the samples."""
        least = float(finfo(dtype).smallest_subnormal)  # type: ignore[no-untyped-call]
        self.taus = np.where(v <= u, INSIDE, np.inf)
        self.powers = np.array([_grid(rho) for rho in u])
        starts = np.empty(v.size)
        chunks.start(np.ascontiguousarray(samples), u, size, starts)  # rows are read by lanes, whole
        searched = np.flatnonzero((v > u) & (u >= least))  # a smaller radius is nothing when rounded towards zero
        self._searches = {j: _search(float(v[j]), float(u[j]), float(starts[j]), size) for j in searched}
        self._steps = {j: next(search) for j, search in self._searches.items()}
        self.asked = self._ask()

    def answer(self, sums: Float64Array, counts: Float64Array) -> None:
        """Take a step.

        Args:
            sums: of whole fibres: what `excesses` returned for all their chunks, folded.
            counts: the same, added.
        """
        for j in list(self._steps):
            try:
                self._steps[j] = self._searches[j].send((float(sums[j]), float(counts[j])))
            except StopIteration as found:
                self.taus[j] = found.value
                del self._steps[j]
        self.asked = self._ask()

    def _ask(self) -> tuple[Float64Array, Float64Array] | None:
        if not self._steps:
            return None
        taus, powers = np.full(self.taus.size, _NOBODY), np.full(self.taus.size, _NO_GRID)
        for j, (tau, power) in self._steps.items():
            taus[j], powers[j] = tau, power
        return taus, powers


def _search(
    norm: float, rho: float, tau: float, size: int
) -> Generator[tuple[float, float], tuple[float, float], float]:
    """The search of `l1.threshold` from its start on, step by step."""
    for _ in range(l1.STEPS):
        total, active = yield tau, _NO_GRID
        tau = _stepped(tau, total, active, norm, rho, size)
        if _is_near(total, rho):
            break
    power = _grid(rho)
    tau = _on_grid(tau, power)
    least = max(power * l1.GRID, float(np.spacing(tau)))
    while True:
        total, active = yield tau, power
        if total <= rho:
            return tau
        step = (total - rho) / active
        if step < least:
            step = least
            least *= 2.0
        tau = _on_grid(tau + step, power)


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
    line = np.ascontiguousarray(values).reshape(-1).view()
    line.flags.writeable = False
    return line
