"""Leaves on blocks that a cluster holds: plain functions of a block, which look between pieces whether time is left.

Each takes the time it has, by its node's clock, and the block, and returns what it found and how long it worked.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from threading import get_native_id
from time import perf_counter_ns, time

import numpy as np

from normtree.engine.long_fibres import cut_parts
from normtree.engine.pieces import cut_pieces
from normtree.engine.stop import Stopped
from normtree.engine.timing import Span, Sweep
from normtree.on_ray.ask import Ask, checked
from normtree_kernels import parts, sweep
from normtree_kernels.arguments import not_finite
from normtree_kernels.blocks import Block
from normtree_kernels.dtypes import Array, Float64Array, check_tensor
from normtree_kernels.norms import MixedNorm
from normtree_kernels.refusals import Refusal

_WHOLE = Block(None, 0, 1)


@dataclass(frozen=True)
class Up:
    """What a leaf tells of its block.

    Args:
        shape: of the block.
        dtype: of its elements.
        norms: float64, of its fibres or parts of fibres, in the shape of its kept axes; or of their chunks, as rows.
        sample: the first elements of each fibre, where chunks are told and the block holds the fibres' beginnings.
    """

    shape: tuple[int, ...]
    dtype: str
    norms: Float64Array
    sample: Float64Array

    @property
    def nbytes(self) -> int:
        """Bytes that grow with the tensor."""
        return self.norms.nbytes + self.sample.nbytes


def leaf_up(until_s: float, block: Array, ask: Ask, first: bool) -> tuple[Up, Span]:
    """Aggregate a block."""
    start_ns = perf_counter_ns()
    block = checked(check_tensor, block, "blocks")
    bound = ask.bind(block.ndim)
    sample = np.empty((0, 0))
    if bound.cut == "chunks":
        norms = _chunk_norms(until_s, block, bound.mixed, bound.mixed.inner.norm)
        if first:
            fibres = parts.merge(block.transpose(bound.mixed.order), len(bound.mixed.kept_axes))
            sample = fibres[..., : parts.SAMPLE].reshape(norms.shape[1], -1).astype(np.float64)
    else:
        norms = _norms(until_s, block, bound.mixed, bound.mixed.inner.norm)
    return Up(block.shape, block.dtype.name, norms, sample), _span("up", start_ns, block, bound.mixed)


def leaf_sums(until_s: float, block: Array, mixed: MixedNorm, chunked: bool) -> tuple[Float64Array, Span]:
    """Sum the magnitudes of a block's fibres, or of the chunks of their parts."""
    start_ns = perf_counter_ns()
    found = (_chunk_norms if chunked else _norms)(until_s, block, mixed, "l1")
    return found, _span("up", start_ns, block, mixed)


def leaf_active(
    until_s: float, block: Array, mixed: MixedNorm, chunked: bool, mu: Float64Array
) -> tuple[tuple[Float64Array, Float64Array], Span]:
    """Sum and count the magnitudes above their fibres' levels."""
    start_ns = perf_counter_ns()
    if chunked:
        found = _rows(mu.size, (parts.active(part, mu) for _, part in _parts(until_s, block, mixed)))
    else:
        found = np.empty(mu.shape), np.empty(mu.shape)
        view = block.transpose(mixed.order)
        for piece in cut_pieces(block.shape, block.dtype.name, mixed, _WHOLE):
            _check(until_s)
            each = sweep.active(view[piece.part], mu.ndim, mu[piece.kept])
            found[0][piece.kept], found[1][piece.kept] = each
    return found, _span("up", start_ns, block, mixed)


def leaf_excesses(
    until_s: float, block: Array, mixed: MixedNorm, taus: Float64Array, lows: Float64Array, powers: Float64Array
) -> tuple[tuple[Float64Array, Float64Array], Span]:
    """Sum and count what lies above l1 thresholds, in the chunks of parts of fibres."""
    start_ns = perf_counter_ns()
    kept = tuple(block.shape[axis] for axis in mixed.kept_axes)
    levels = taus.reshape(kept), lows.reshape(kept), powers.reshape(kept)
    found = _rows(taus.size, (parts.excesses(part, levels) for _, part in _parts(until_s, block, mixed)))
    return found, _span("down", start_ns, block, mixed)


def leaf_down(
    until_s: float, block: Array, mixed: MixedNorm, norms: Float64Array, radii: Float64Array
) -> tuple[Array, Span]:
    """Project a block, each of its fibres on its own radius."""
    start_ns = perf_counter_ns()
    made = np.empty(block.shape, block.dtype)
    source, target = block.transpose(mixed.order), made.transpose(mixed.order)
    for piece in cut_pieces(block.shape, block.dtype.name, mixed, _WHOLE):
        _check(until_s)
        balls = norms[piece.kept], radii[piece.kept]
        sweep.down(mixed.inner.norm, source[piece.part], len(mixed.kept_axes), *balls, target[piece.part])
    return made, _span("down", start_ns, block, mixed)


def leaf_down_part(until_s: float, block: Array, mixed: MixedNorm, *balls: Float64Array) -> tuple[Array, Span]:
    """Project parts of l1 fibres by their thresholds and grids, or of l2 fibres by their norms and radii."""
    start_ns = perf_counter_ns()
    kept = len(mixed.kept_axes)
    made = np.empty(block.shape, block.dtype)
    target = made.transpose(mixed.order)
    results = _merged(target, kept)
    given = [values.reshape(target.shape[:kept]) for values in balls]
    for piece, part in _parts(until_s, block, mixed):
        out = results[..., piece]
        if mixed.inner.norm == "l1":
            taus, lows, powers = given
            parts.shrink(part, (taus, lows, powers), out)
        else:
            v, u = given
            parts.down("l2", part, v, u, out)
    if not np.may_share_memory(results, made):
        target[...] = results.reshape(target.shape)
    return made, _span("down", start_ns, block, mixed)


def leaf_not_finite(until_s: float, block: Array, name: str, norm: MixedNorm) -> tuple[Refusal, Span]:
    """Say which element cannot be."""
    start_ns = perf_counter_ns()
    return not_finite(block, name, norm), _span("up", start_ns, block, norm)


def _norms(until_s: float, block: Array, mixed: MixedNorm, norm: str) -> Float64Array:
    view = block.transpose(mixed.order)
    norms = np.zeros([block.shape[kept] for kept in mixed.kept_axes])
    for piece in cut_pieces(block.shape, block.dtype.name, mixed, _WHOLE):
        _check(until_s)
        norms[piece.kept] = sweep.up(norm, view[piece.part], len(mixed.kept_axes))
    return norms


def _chunk_norms(until_s: float, block: Array, mixed: MixedNorm, norm: str) -> Float64Array:
    fibres = prod(block.shape[axis] for axis in mixed.kept_axes)
    rows = [parts.chunk_norms(norm, part).reshape(-1, fibres) for _, part in _parts(until_s, block, mixed)]
    return np.concatenate([np.empty((0, fibres)), *rows])


def _rows(fibres: int, found: Iterator[tuple[Float64Array, Array]]) -> tuple[Float64Array, Float64Array]:
    """What was found of chunks, as rows."""
    rows = [(np.empty((0, fibres)), np.empty((0, fibres)))]
    rows += [(sums.reshape(-1, fibres), counts.reshape(-1, fibres)) for sums, counts in found]
    return np.concatenate([sums for sums, _ in rows]), np.concatenate([counts for _, counts in rows])


def _merged(target: Array, kept: int) -> Array:
    """The target's fibres along one axis; new memory where no single stride walks them."""
    try:
        return parts.merge(target, kept, copy=False)
    except ValueError:
        return np.empty((*target.shape[:kept], prod(target.shape[kept:])), target.dtype)


def _parts(until_s: float, block: Array, mixed: MixedNorm) -> Iterator[tuple[slice, Array]]:
    """A block's fibres, piece by piece, for as long as there is time: where each is, and its elements."""
    if block.size == 0:
        return
    fibres = parts.merge(block.transpose(mixed.order), len(mixed.kept_axes))
    for piece, _ in cut_parts(fibres, _WHOLE):
        _check(until_s)
        yield piece, fibres[..., piece]


def _check(until_s: float) -> None:
    """Go on only if there is time left, by this node's clock: who cancels a running task would have to reach it."""
    if time() >= until_s:
        raise Stopped


def _span(stage: Sweep, start_ns: int, block: Array, mixed: MixedNorm) -> Span:
    nbytes = (2 if stage == "down" else 1) * block.nbytes
    return Span(stage, len(mixed.levels) - 1, start_ns, perf_counter_ns(), nbytes, get_native_id())
