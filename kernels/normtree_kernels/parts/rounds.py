"""The search for the l1 thresholds of fibres that are cut, in rounds of questions to all parts.

It is that of `normtree_kernels.sweeps.threshold.threshold`, which asks for sums, whoever takes them.
"""

from collections.abc import Generator
from typing import Any, cast

import numpy as np
from ml_dtypes import finfo

from normtree_kernels.dtypes import Float64Array
from normtree_kernels.parts.part import fold
from normtree_kernels.parts.questions import Answer, Excess, Samples
from normtree_kernels.sweeps import threshold
from normtree_kernels.sweeps.chunks import INSIDE, LARGEST, NO_GRID, NOBODY, Levels, starts
from normtree_kernels.vector_norm import Norm, Seen

_grid, _on_grid, _stepped, _is_near, _limit, _excess, _lowered = (
    cast(Any, function).py_func
    for function in (
        threshold.grid, threshold.on_grid, threshold.stepped, threshold.is_near, threshold.limit, threshold.excess,
        threshold.lowered,
    )
)  # fmt: skip

Level = tuple[float, float, float]
"""Of one fibre."""

_SAMPLES = b"samples"


def search(
    l1: Norm, v: Float64Array, u: Float64Array, size: int, dtype: np.dtype[Any], seen: Seen | None = None
) -> Generator[Any, Answer, tuple[Levels, Float64Array]]:
    """Search the thresholds of fibres, all at once.

    Args:
        l1: the norm.
        v: their norms, finite.
        u: their radii, of the same shape.
        size: elements in a fibre.
        dtype: of the elements; what is too small for it vanishes.
        seen: answers of former searches in the same fibre, if there is but one; those of this one are added.

    Returns:
        The thresholds, of the shape of ``v``; and how many elements the last ones asked for left.
    """
    search = _Search(v, u, size, dtype, (yield from _start(v, u, size, seen)))
    counts = np.zeros(v.size)
    while search.asked:
        key = np.stack(search.asked).tobytes()
        known = seen.get(key) if seen is not None else None
        tau, low, power = (values.reshape(v.shape) for values in search.asked)
        answer = known or (yield Excess(tau, low, power))
        sums, numbers = (each.reshape(-1, v.size) for each in answer)
        if seen is not None and not known:
            seen[key] = (sums.copy(), numbers.copy())
        counts = numbers.sum(axis=0)
        search.answer(sums, fold(l1, sums), counts)
    tau, low, power = (values.reshape(v.shape) for values in search.found)
    return (tau, low, power), counts


def _start(v: Float64Array, u: Float64Array, size: int, seen: Seen | None) -> Generator[Any, Answer, Float64Array]:
    """Where the search starts: for long fibres from the thresholds of their first elements."""
    if size < threshold.SAMPLED:
        return (v - u).reshape(-1) / size
    known = seen.get(_SAMPLES) if seen is not None else None
    (samples,) = known or (yield Samples())
    if seen is not None and not known:
        seen[_SAMPLES] = (samples.copy(),)
    return starts(samples.reshape(v.size, -1), u.reshape(-1), size)


class _Search:
    """The searches of all fibres, side by side.

    Attributes:
        found: what was found.
        asked: what is asked; None when all are found.
    """

    def __init__(self, v: Float64Array, u: Float64Array, size: int, dtype: np.dtype[Any], starts: Float64Array) -> None:
        least = float(finfo(dtype).smallest_subnormal)  # type: ignore[no-untyped-call]
        v, u = v.reshape(-1), u.reshape(-1)
        self.found: Levels = np.where(v <= u, INSIDE, np.inf), np.zeros(v.size), np.array([_grid(rho) for rho in u])
        searched = np.flatnonzero((v > u) & (u >= least))  # a smaller radius is nothing when rounded towards zero
        self._searches = {j: _search(float(v[j]), float(u[j]), float(starts[j]), size) for j in searched}
        self._steps = {j: next(search) for j, search in self._searches.items()}
        self.asked = self._ask()

    def answer(self, sums: Float64Array, totals: Float64Array, counts: Float64Array) -> None:
        """Take a step.

        Args:
            sums: slots by fibres: what was answered.
            totals: of fibres: what they sum to.
            counts: of fibres.
        """
        for j, (tau, _, _) in list(self._steps.items()):
            total = sums[:, j].max() if tau == LARGEST else totals[j]
            try:
                self._steps[j] = self._searches[j].send((float(total), float(counts[j])))
            except StopIteration as found:
                self.found[0][j], self.found[1][j] = found.value
                del self._steps[j]
        self.asked = self._ask()

    def _ask(self) -> Levels | None:
        if not self._steps:
            return None
        size = self.found[0].size
        taus, lows, powers = np.full(size, NOBODY), np.zeros(size), np.full(size, NO_GRID)
        for j, asked in self._steps.items():
            taus[j], lows[j], powers[j] = asked
        return taus, lows, powers


def _search(
    norm: float, rho: float, tau: float, size: int
) -> Generator[Level, tuple[float, float], tuple[float, float]]:
    """The search of `threshold.threshold` from its start on, step by step."""
    power = _grid(rho)
    for _ in range(threshold.STEPS):
        total, active = yield tau, 0.0, NO_GRID
        tau = _stepped(tau, total, active, norm, rho, size)
        if _is_near(total, rho) or tau >= _limit(power):
            break
    if tau >= _limit(power):
        return (yield from _apart(rho, power))
    tau = _on_grid(tau, power)
    least = max(power * threshold.GRID, float(np.spacing(tau)))
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
    tau, _ = yield LARGEST, 0.0, NO_GRID
    low = _excess(rho, 0.0, 0.0, power)
    while True:
        total, active = yield tau, low, power
        if total <= rho:
            return tau, low
        low = _lowered(low, total, active, rho, power)
