"""The machine profile: how fast leaves run here, and what starting them costs. Measured once, at the start."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from time import perf_counter
from typing import Self

import numpy as np

from normtree_kernels import sweep
from normtree_kernels.norms import NORMS

_SAMPLE_SHAPE = (1024, 8192)
_REPEATS = 3
_RADIUS_SHARE = 0.1


@dataclass(frozen=True)
class MachineProfile:
    """Rates and overheads of this machine, in the state it was in when measured.

    Args:
        copy_gb_s: bytes of a tensor copied by one thread, over time.
        up_gb_s: bytes of a tensor aggregated by one thread, over time, for each leaf norm.
        down_gb_s: bytes of a tensor projected by one thread, over time, for each leaf norm.
        thread_overhead_ms: what a two-phase request costs on threads beyond its leaves.
        ray_overhead_ms: what it costs on Ray beyond its leaves; None without Ray.
    """

    copy_gb_s: float
    up_gb_s: Mapping[str, float]
    down_gb_s: Mapping[str, float]
    thread_overhead_ms: float
    ray_overhead_ms: float | None

    @classmethod
    def measure(cls, run_on_threads: Callable[[], float], run_on_ray: Callable[[], float] | None = None) -> Self:
        """Measure leaves on 32 MiB of noise, and overheads with the given runs of a tiny tensor.

        Args:
            run_on_threads: runs a tiny request on threads and returns its wall less span, in milliseconds.
            run_on_ray: the same on Ray; None without Ray.
        """
        y = np.random.default_rng(0).standard_normal(_SAMPLE_SHAPE, dtype=np.float32)
        out = np.empty_like(y)
        up: dict[str, float] = {}
        down: dict[str, float] = {}
        for norm in NORMS:
            v = sweep.up(norm, y, 1)
            up[norm] = y.nbytes / _best_ns(partial(sweep.up, norm, y, 1))
            down[norm] = y.nbytes / _best_ns(partial(sweep.down, norm, y, 1, v, _RADIUS_SHARE * v, out))
        return cls(
            copy_gb_s=y.nbytes / _best_ns(partial(np.copyto, out, y)),
            up_gb_s=up,
            down_gb_s=down,
            thread_overhead_ms=_median_of(run_on_threads),
            ray_overhead_ms=_median_of(run_on_ray) if run_on_ray else None,
        )

    def serial_ms(self, norm: str, nbytes: int) -> float:
        """Predict both sweeps over ``nbytes`` of a tensor on one thread, in milliseconds, by its leaf norm."""
        return nbytes * (1 / self.up_gb_s[norm] + 1 / self.down_gb_s[norm]) / 1e6

    def as_dict(self) -> dict[str, object]:
        """The profile as plain values, for JSON."""
        return asdict(self)


def _best_ns(function: Callable[[], object]) -> float:
    """Shortest time of several runs after a warm-up, in nanoseconds: the machine is shared."""
    function()
    times = []
    for _ in range(_REPEATS):
        start = perf_counter()
        function()
        times.append(perf_counter() - start)
    return min(times) * 1e9


def _median_of(function: Callable[[], float]) -> float:
    function()
    return statistics.median(function() for _ in range(3 * _REPEATS))
