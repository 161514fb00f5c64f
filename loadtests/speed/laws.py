"""Laws of speed-up, fitted to measured walls: Amdahl's law and the Universal Scalability Law.

Both are linear in their parameters once written for the time instead of the speed-up, so plain least squares do:

    Amdahl   T(n)/T(1) = s + (1 - s)/n
    USL      T(n)/T(1) = 1/n + sigma (1 - 1/n) + kappa (n - 1)

s and sigma are the share that does not run in parallel (contention), kappa the price of every pair that must agree
(coherency). Each parameter's interval comes from fitting again and again to rounds drawn with replacement.

G. M. Amdahl, AFIPS 1967; N. J. Gunther, Guerrilla Capacity Planning, 2007.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

DRAWS = 200
_SEED = 0


@dataclass(frozen=True)
class Interval:
    """A fitted value, and where the middle nine tenths of the fits to re-drawn rounds lie."""

    value: float
    lower: float
    upper: float


@dataclass(frozen=True)
class Fit:
    """Both laws, fitted to one curve.

    Args:
        serial: Amdahl's serial share, 0 to 1.
        contention: the USL's sigma, 0 to 1.
        coherency: the USL's kappa, >= 0.
        worst: largest relative distance of a measured median from the USL's curve.
        spare: numbers of workers beyond those the USL needs; 0 means it passes through the points and predicts nothing.
    """

    serial: Interval
    contention: Interval
    coherency: Interval
    worst: float
    spare: int

    @property
    def limit(self) -> float:
        """Speed-up that Amdahl's law never passes, whatever the workers."""
        return 1 / self.serial.value if self.serial.value else math.inf

    @property
    def peak(self) -> float:
        """Workers beyond which the USL's speed-up falls."""
        return math.sqrt((1 - self.contention.value) / self.coherency.value) if self.coherency.value else math.inf


def amdahl(workers: np.ndarray | float, serial: float) -> np.ndarray | float:
    """Speed-up by Amdahl's law."""
    return 1 / (serial + (1 - serial) / workers)


def usl(workers: np.ndarray | float, contention: float, coherency: float) -> np.ndarray | float:
    """Speed-up by the Universal Scalability Law."""
    return workers / (1 + contention * (workers - 1) + coherency * workers * (workers - 1))


def fit(walls: Mapping[int, Sequence[float]]) -> Fit:
    """Fit both laws to walls of several rounds at several numbers of workers.

    Args:
        walls: for each number of workers the rounds' walls, > 0, in any one unit; 1 worker must be among them.

    Raises:
        ValueError: fewer than two numbers of workers, no single worker, or a wall that is not positive.
    """
    if 1 not in walls or len(walls) < 2:
        raise ValueError(f"walls: wanted those of 1 worker and of more, got those of {sorted(walls)}")
    if any(wall <= 0 for rounds in walls.values() for wall in rounds):
        raise ValueError("walls: wanted positive times")
    counts = np.array(sorted(walls), float)
    medians = {n: median(walls[int(n)]) for n in counts}
    exact = _solve(counts, np.array([medians[n] for n in counts]))
    random = np.random.default_rng(_SEED)
    drawn = np.array(
        [
            _solve(counts, np.array([median(random.choice(walls[int(n)], len(walls[int(n)]))) for n in counts]))
            for _ in range(DRAWS)
        ]
    )
    lower, upper = np.quantile(drawn, (0.05, 0.95), axis=0)
    serial, contention, coherency = (Interval(*map(float, row)) for row in zip(exact, lower, upper, strict=True))
    speedups = np.array([medians[1.0] / medians[n] for n in counts])
    worst = float(np.max(np.abs(usl(counts, contention.value, coherency.value) / speedups - 1)))
    return Fit(serial, contention, coherency, worst, max(0, len(counts) - 3))


def _solve(counts: np.ndarray, walls: np.ndarray) -> tuple[float, float, float]:
    """Least squares for both laws; parameters that would leave their range stay at its edge."""
    beyond = counts > 1
    n, times = counts[beyond], walls[beyond] / walls[counts == 1]
    excess, idle = times - 1 / n, 1 - 1 / n
    serial = min(1.0, max(0.0, float(idle @ excess / (idle @ idle))))
    if len(n) < 2:  # one point cannot tell contention from coherency
        return serial, serial, 0.0
    columns = np.stack([idle, n - 1], axis=1)
    contention, coherency = np.linalg.lstsq(columns, excess, rcond=None)[0]
    if coherency < 0:
        contention, coherency = serial, 0.0
    elif not 0 <= contention <= 1:
        contention = min(1.0, max(0.0, contention))
        rest = excess - contention * idle
        coherency = max(0.0, float((n - 1) @ rest / ((n - 1) @ (n - 1))))
    return serial, float(contention), float(coherency)
