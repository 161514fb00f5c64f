"""Leaves for tensors whose fibres are cut into parts, and what parts and root write for each other.

A part cannot tell a fibre's norm, nor its l1 threshold. It writes what its chunks sum to; the root folds that, and asks
in rounds until the thresholds are found.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from threading import get_native_id
from time import perf_counter_ns
from typing import Self

import numpy as np

from normtree.engine.stop import Stop
from normtree.engine.tensor import Tensor
from normtree.engine.timing import Span, Sweep
from normtree_kernels import parts
from normtree_kernels.blocks import Block
from normtree_kernels.dtypes import Array
from normtree_kernels.lanes import CHUNK, chunk_count
from normtree_kernels.norms import MixedNorm

_PIECE_ELEMENTS = 1 << 22  # of all fibres together: a few tens of milliseconds at most


@dataclass(frozen=True)
class LongFibres:
    """Where parts and root of one tensor write for each other; all of it float64.

    Args:
        sums: chunks by fibres: the chunks' norms, and then in each round what lies above thresholds.
        counts: chunks by fibres: of how many elements that is.
        taus: the fibres' thresholds: those asked for in a round, and in the end those found.
        lows: how much lower than ``taus`` they are; see `normtree_kernels.l1`.
        powers: of the grids on which sums are asked for, and on which results lie.
        samples: fibres by elements: the first ones of each.
    """

    sums: Tensor
    counts: Tensor
    taus: Tensor
    lows: Tensor
    powers: Tensor
    samples: Tensor

    @staticmethod
    def shapes(shape: tuple[int, ...], norm: MixedNorm) -> list[tuple[int, ...]]:
        """Shapes of the six, for a tensor of that shape."""
        fibres = prod(shape[axis] for axis in norm.kept_axes)
        chunks = chunk_count(prod(shape[axis] for axis in norm.inner.axes))
        return [(chunks, fibres), (chunks, fibres), (fibres,), (fibres,), (fibres,), (fibres, parts.SAMPLE)]

    def fold(self, norm: str, norms: Tensor) -> None:
        """Write the fibres' norms, from those of all chunks."""
        norms.array(writable=True)[...] = parts.fold(norm, self.sums.array()).reshape(norms.shape)

    def search(self, norms: Tensor, radii: Tensor, size: int, dtype: str) -> Iterator[Self]:
        """Search the fibres' thresholds: yield whenever all parts are to sum what lies above those asked for."""
        v, u = (each.array().reshape(-1) for each in (norms, radii))
        kind = np.dtype(dtype).newbyteorder("=")
        search = parts.Thresholds(v, u, self.samples.array(), size, kind)
        while search.asked:
            self._tell(search.asked)
            yield self
            search.answer(self.sums.array(), self.counts.array())
        self._tell(search.found)

    def levels(self, kept: tuple[int, ...]) -> parts.Levels:
        """Those asked for, or found, in the shape of the kept axes."""
        taus, lows, powers = (each.array().reshape(kept) for each in (self.taus, self.lows, self.powers))
        return taus, lows, powers

    def _tell(self, levels: parts.Levels) -> None:
        for place, values in zip((self.taus, self.lows, self.powers), levels, strict=True):
            place.array(writable=True)[...] = values


def part_up(stop: Stop, source: Tensor, norm: MixedNorm, block: Block, long: LongFibres) -> Span:
    """Aggregate a part of all fibres: write the norms of its chunks, and the first elements where it has them."""
    start_ns = perf_counter_ns()
    fibres = parts.merge(source.array().transpose(norm.order), len(norm.kept_axes))
    sums, samples = long.sums.array(writable=True), long.samples.array(writable=True)
    for piece, rows in cut_parts(fibres, block):
        stop.check()
        sums[rows] = parts.chunk_norms(norm.inner.norm, fibres[..., piece]).reshape(-1, sums.shape[1])
        if piece.start == 0:
            samples[...] = fibres[..., : parts.SAMPLE].reshape(samples.shape)
    return _span("up", norm, start_ns, block, fibres, 1)


def part_excesses(stop: Stop, source: Tensor, norm: MixedNorm, block: Block, long: LongFibres) -> Span:
    """Sum what lies above the thresholds asked for, in a part of all fibres."""
    start_ns = perf_counter_ns()
    fibres = parts.merge(source.array().transpose(norm.order), len(norm.kept_axes))
    levels = long.levels(fibres.shape[:-1])
    sums, counts = long.sums.array(writable=True), long.counts.array(writable=True)
    for piece, rows in cut_parts(fibres, block):
        stop.check()
        found = parts.excesses(fibres[..., piece], levels)
        sums[rows], counts[rows] = (each.reshape(-1, sums.shape[1]) for each in found)
    return _span("down", norm, start_ns, block, fibres, 1)


def part_down(
    stop: Stop,
    tensors: tuple[Tensor, Tensor],
    norm: MixedNorm,
    block: Block,
    balls: tuple[Tensor, Tensor],
    long: LongFibres,
) -> Span:
    """Project a part of all fibres, each by its threshold, or by its norm and its radius."""
    start_ns = perf_counter_ns()
    kept = len(norm.kept_axes)
    source, target = tensors[0].array(), tensors[1].array(writable=True)
    fibres = parts.merge(source.transpose(norm.order), kept)
    results = parts.merge(target.transpose(norm.order), kept, copy=False)
    levels = long.levels(fibres.shape[:-1])
    v, u = (each.array() for each in balls)
    for piece, _ in cut_parts(fibres, block):
        stop.check()
        if norm.inner.norm == "l1":
            parts.shrink(fibres[..., piece], levels, results[..., piece])
        else:
            parts.down(norm.inner.norm, fibres[..., piece], v, u, results[..., piece])
    return _span("down", norm, start_ns, block, fibres, 2)


def cut_parts(fibres: Array, block: Block) -> Iterator[tuple[slice, slice]]:
    """Cut a part into pieces of a bounded size: its elements, and its chunks."""
    start, stop = block.part or (0, fibres.shape[-1])
    step = max(1, _PIECE_ELEMENTS * fibres.shape[-1] // fibres.size // CHUNK) * CHUNK
    edges = [*range(start, max(stop - CHUNK, start + 1), step), stop]  # the last piece is no shorter than a chunk
    for first, last in pairwise(edges):
        yield slice(first, last), slice(first // CHUNK, chunk_count(last))


def _span(sweep: Sweep, norm: MixedNorm, start_ns: int, block: Block, fibres: Array, passes: int) -> Span:
    start, stop = block.part or (0, fibres.shape[-1])
    nbytes = passes * fibres.nbytes * (stop - start) // fibres.shape[-1]
    return Span(sweep, len(norm.levels) - 1, start_ns, perf_counter_ns(), nbytes, get_native_id())
