"""A bench for leaves: memory of the kind that requests live in, and threads to sweep it with."""

import math
import mmap
import statistics
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from time import perf_counter_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normtree.engine.profile.machine_profile import MIB, SWEEPS, Curve, Layout, LeafSweep, SweepCost
from normtree_kernels.arrays import run
from normtree_kernels.norms.linf import LINF
from normtree_kernels.norms.mixed_norm import NORMS
from normtree_kernels.sweeps import sweep

Array = NDArray[Any]
Taken = dict[LeafSweep, float]

# The last is beyond the caches of any machine; where there is no room for it, the last but one is so on most.
SIZES: Mapping[Layout, tuple[int, ...]] = {
    "rows": (1 << 12, 1 << 16, 1 << 19, 1 << 22, 1 << 24, 1 << 26, 1 << 28),
    "columns": (1 << 12, 1 << 16, 1 << 19, 1 << 22, 1 << 24, 1 << 26, 1 << 28),
    "packed": (1 << 12, 1 << 16, 1 << 19, 1 << 22),
}
_CACHED_BYTES = 1 << 19
_SHORT_RUNS = (4, 16, 64)
_RADIUS_SHARE = 0.3
_STARTS = 50
_LEAST_REPEATS, _MOST_REPEATS, _LONG_NS = 3, 9, 10_000_000
_SLOW_BYTES = 1 << 27


class Bench:
    """Times sweeps of noise.

    Args:
        workers: threads that share a sweep.
        largest_bytes: of the tensors, and as much again for what they become.
    """

    def __init__(self, workers: int, largest_bytes: int) -> None:
        """Fill the memory, so that its pages are there."""
        self.workers = workers
        self._largest_bytes = largest_bytes
        self._memory = [np.frombuffer(mmap.mmap(-1, largest_bytes), np.uint8) for _ in range(2)]  # shared, like arenas
        self._memory[1][:] = 0
        self._fill("float32", largest_bytes)
        self._start_ns = 0.0
        if workers > 1:
            starts = [self._once_ns(workers, lambda _: None, workers) for _ in range(_STARTS)]
            self._start_ns = statistics.median(starts)

    def leaf(self, norm: str, layout: Layout) -> dict[LeafSweep, SweepCost]:
        """Measure both sweeps of float32 leaves of one norm and layout."""
        serial, shared = self._curves(norm, layout, 1), self._curves(norm, layout, self.workers)
        short = self._short(norm, layout)
        return {name: SweepCost(serial[name], shared[name], short[name]) for name in SWEEPS}

    def ratios(self, norm: str, layout: Layout, dtypes: Sequence[str]) -> dict[str, Taken]:
        """Measure types' times over float32's, for as many bytes in the caches."""
        taken: dict[str, Taken] = {}
        for dtype in ("float32", *dtypes):
            self._fill(dtype, _CACHED_BYTES)
            taken[dtype] = self._sweeps(norm, self._pair(layout, dtype, _CACHED_BYTES), 1)
        base = taken.pop("float32")
        return {dtype: {name: ns[name] / base[name] for name in SWEEPS} for dtype, ns in taken.items()}

    def bandwidth_gb_s(self) -> dict[str, dict[int, float]]:
        """Measure the memory on 1, 2, 4, … threads, in GB/s of the tensor."""
        y, x = self._pair("rows", "float32", self._largest_bytes)
        v = sweep.up(LINF, y, 1)
        u = _RADIUS_SHARE * v
        kinds: dict[str, Callable[[slice], object]] = {
            "read": lambda s: sweep.up(LINF, y[s], 1),
            "copy": lambda s: np.copyto(x[s], y[s]),
            "stream": lambda s: sweep.down(LINF, y[s], 1, v[s], u[s], x[s]),
        }
        threads = sorted({*(1 << i for i in range(self.workers.bit_length())), self.workers})
        return {
            kind: {count: y.nbytes / self._median_ns(len(y), work, count) for count in threads}
            for kind, work in kinds.items()
        }

    def _curves(self, norm: str, layout: Layout, workers: int) -> dict[LeafSweep, Curve]:
        sizes, taken = [], []
        for size in filter(self._largest_bytes.__ge__, SIZES[layout]):
            pair = self._pair(layout, "float32", size)
            sizes.append(pair[0].nbytes)
            taken.append(self._sweeps(norm, pair, workers))
        return {name: Curve(tuple(sizes), tuple(ns[name] for ns in taken)) for name in SWEEPS}

    def _short(self, norm: str, layout: Layout) -> dict[LeafSweep, Curve]:
        """Measure what short runs cost beyond those of a square, which cost nothing."""
        square = self._pair(layout, "float32", _CACHED_BYTES)
        base = self._sweeps(norm, square, 1)
        taken = [self._sweeps(norm, self._pair(layout, "float32", _CACHED_BYTES, run), 1) for run in _SHORT_RUNS]
        lengths = (*_SHORT_RUNS, math.isqrt(square[0].size))
        return {
            name: Curve(lengths, (*(max(0.0, ns[name] - base[name]) * MIB / _CACHED_BYTES for ns in taken), 0.0))
            for name in SWEEPS
        }

    def _sweeps(self, norm: str, pair: tuple[Array, Array], workers: int) -> Taken:
        """Time both sweeps, one after the other as in a request; medians in nanoseconds."""
        block, out = pair
        leaf = NORMS[norm]
        v = sweep.up(leaf, block, 1)
        u = _RADIUS_SHARE * v
        slow = block.nbytes >= _SLOW_BYTES  # nothing of it stays in a cache, and it is measured again in another round
        if not slow:
            sweep.down(leaf, block, 1, v, u, out)
        least = 1 if slow else _LEAST_REPEATS
        ups: list[float] = []
        downs: list[float] = []
        while len(ups) < least or (len(ups) < _MOST_REPEATS and sum(ups) + sum(downs) < _LONG_NS):
            ups.append(self._once_ns(len(block), lambda s: sweep.up(leaf, block[s], 1), workers))
            downs.append(
                self._once_ns(len(block), lambda s: sweep.down(leaf, block[s], 1, v[s], u[s], out[s]), workers)
            )
        return {"up": statistics.median(ups), "down": statistics.median(downs)}

    def _median_ns(self, length: int, work: Callable[[slice], object], workers: int) -> float:
        return statistics.median(self._once_ns(length, work, workers) for _ in range(_LEAST_REPEATS))

    def _once_ns(self, length: int, work: Callable[[slice], object], workers: int) -> float:
        """Time a piece of work divided among threads, without what starting them costs."""
        parts = [slice(start, stop) for start, stop in pairwise(length * i // workers for i in range(workers + 1))]
        start_ns = perf_counter_ns()
        run(work, parts, workers)
        return max(perf_counter_ns() - start_ns - (self._start_ns if workers > 1 else 0.0), 1.0)

    def _fill(self, dtype: str, nbytes: int) -> None:
        y = self._memory[0][:nbytes].view(dtype)
        noise = np.random.default_rng(0).standard_normal(min(y.size, 1 << 20), np.float32).astype(dtype)
        for start in range(0, y.size, noise.size):
            y[start : start + noise.size] = noise[: y.size - start]

    def _pair(self, layout: Layout, dtype: str, nbytes: int, run_length: int = 0) -> tuple[Array, Array]:
        """A block of about ``nbytes`` and where its projection goes, kept axis first; square where no run is given."""
        elements = nbytes // np.dtype(dtype).itemsize
        inner = run_length or math.isqrt(elements) * 31 // 64 * 2  # no power of two, at which addresses collide
        outer = elements // inner

        def shaped(memory: Array) -> Array:
            line = memory.view(dtype)[: outer * inner]
            if layout == "packed":
                return line.reshape(2, outer, inner // 2).transpose(1, 0, 2)
            return line.reshape(outer, inner) if layout == "rows" else line.reshape(outer, inner).T

        return shaped(self._memory[0]), shaped(self._memory[1])
