"""What a request over several nodes adds is found again from walls that it made."""

import numpy as np
import pytest
from hosts.nodes_cost import NodesCost, fit_probes

MIB = 2**20
CASES = [(2, MIB // 2), (8, 2 * MIB), (2, 32 * MIB)]


def probes(true: NodesCost, leaves_ms: float, noise: float = 0.0) -> list[dict[str, float]]:
    random = np.random.default_rng(0)
    return [
        {"blocks": blocks, "nbytes": nbytes, "nodes": 2, "round_trip_ms": trip_ms,
         "wall_ms": (leaves_ms + true.ms(blocks, trip_ms, nbytes / 2)) * (1 + noise * random.standard_normal())}
        for trip_ms in (0.3, 1.2, 10.1) for blocks, nbytes in CASES
    ]  # fmt: skip


@pytest.mark.parametrize("true", [NodesCost(8.0, 0.7, 4.0, 0.5), NodesCost(0.0, 1.0, 2.0, 0.0)])
def test_parameters_are_found(true: NodesCost) -> None:
    made = probes(true, 3.0)
    found = fit_probes(made, [3.0] * len(made))
    assert vars(found) == pytest.approx(vars(true), abs=1e-9)


def test_none_is_below_zero() -> None:
    made = probes(NodesCost(0.05, 0.5, 3.0, 0.0), 1.0, noise=0.2)
    found = fit_probes(made, [1.0] * len(made))
    assert all(value >= 0 for value in vars(found).values())
    assert found.trips == pytest.approx(3, rel=0.3)


def test_too_few_probes_are_refused() -> None:
    with pytest.raises(ValueError, match="wanted at least 4, got 3"):
        fit_probes(probes(NodesCost(1, 1, 1, 1), 1.0)[:3], [1.0] * 3)
