"""The fits find the parameters that made a curve, and say how sure they are."""

import numpy as np
import pytest
from speed.laws import amdahl, fit, usl

COUNTS = (1, 2, 3, 4, 8, 16)


def walls(speedup, spread: float = 0.0, rounds: int = 9) -> dict[int, list[float]]:
    random = np.random.default_rng(1)
    return {n: list(100 / speedup(n) * (1 + spread * random.standard_normal(rounds))) for n in COUNTS}


@pytest.mark.parametrize("serial", [0.0, 0.05, 0.5, 1.0])
def test_amdahl_is_found(serial: float) -> None:
    found = fit(walls(lambda n: amdahl(n, serial)))
    assert found.serial.value == pytest.approx(serial, abs=1e-12)
    assert 1 / found.limit == pytest.approx(serial, abs=1e-12)
    assert found.coherency.value == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("contention", "coherency"), [(0.05, 0.002), (0.0, 0.01), (0.3, 0.0)])
def test_usl_is_found(contention: float, coherency: float) -> None:
    found = fit(walls(lambda n: usl(n, contention, coherency)))
    assert found.contention.value == pytest.approx(contention, abs=1e-9)
    assert found.coherency.value == pytest.approx(coherency, abs=1e-9)
    assert found.worst < 1e-9
    assert found.spare == len(COUNTS) - 3


def test_peak_is_where_the_speedup_falls() -> None:
    found = fit(walls(lambda n: usl(n, 0.05, 0.01)))
    around = [usl(found.peak + step, 0.05, 0.01) for step in (-1, 0, 1)]
    assert found.peak == pytest.approx(np.sqrt(0.95 / 0.01))
    assert max(around) == around[1]


def test_noise_widens_the_interval_around_the_truth() -> None:
    found = fit(walls(lambda n: usl(n, 0.1, 0.004), spread=0.03))
    calm = fit(walls(lambda n: usl(n, 0.1, 0.004), spread=0.003))
    assert found.coherency.lower <= 0.004 <= found.coherency.upper
    assert found.contention.upper - found.contention.lower > 3 * (calm.contention.upper - calm.contention.lower)


def test_superlinear_speedup_stays_in_range() -> None:
    found = fit({1: [100.0], 2: [45.0], 4: [22.0]})
    assert (found.serial.value, found.contention.value, found.coherency.value) == (0.0, 0.0, 0.0)
    assert found.peak == np.inf


def test_two_counts_leave_coherency_open() -> None:
    found = fit({1: [100.0], 2: [60.0]})
    assert found.serial.value == pytest.approx(0.2)
    assert (found.contention.value, found.coherency.value, found.spare) == (found.serial.value, 0.0, 0)


@pytest.mark.parametrize("wrong", [{}, {1: [1.0]}, {2: [1.0], 4: [0.5]}, {1: [1.0], 2: [0.0]}])
def test_walls_that_are_no_curve_are_refused(wrong: dict[int, list[float]]) -> None:
    with pytest.raises(ValueError, match="walls"):
        fit(wrong)
