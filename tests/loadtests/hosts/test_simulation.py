"""The simulation is the plan's own model on one node, and names what bounds it where that is known beforehand."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hosts.nodes_cost import NodesCost
from hosts.simulation import (
    BOUNDS,
    Factors,
    Hardware,
    check_curves,
    check_nodes,
    draws,
    errors,
    scale,
    simulate,
    validation,
)  # fmt: skip
from tools.results import Point

from normtree.engine.profile.cost import Workload
from normtree.engine.profile.machine import Machine
from normtree.engine.profile.machine_profile import MIB, Curve, EngineCost, MachineProfile, SweepCost
from normtree_kernels.norms.mixed_norm import MixedNorm
from normtree_kernels.tree.blocks import split

COST = SweepCost(serial=Curve((MIB,), (2e5,)), shared=Curve((MIB,), (1e5,)), short=Curve((1, 64), (1e5, 0.0)))
LAYOUTS, NORMS = ("rows", "columns", "packed"), ("l1", "l2", "linf")
PROFILE = MachineProfile(
    machine=Machine("a processor", 4, "6.1", {"python": "3.11"}, "0"),
    measured=datetime(2026, 1, 1, tzinfo=UTC),
    workers=4,
    bandwidth_gb_s={"read": {1: 10.0, 4: 20.0}},
    leaves={f"{norm} {layout}": {"up": COST, "down": COST} for norm in NORMS for layout in LAYOUTS},
    dtypes={f"{norm} {layout} float64": {"up": 1.0, "down": 1.0} for norm in NORMS for layout in LAYOUTS},
    engines={"ray": EngineCost(request_ms=1.0, block_ms=0.1, moved_ms_per_mib=1.0, slowdown=1.1)},
)
HARDWARE = Hardware(
    memory_bytes=1e12,
    link_gb_s=1.0,
    round_trip_ms=0.5,
    read_gb_s=2.0,
    write_gb_s=1.0,
    several=NodesCost(request_ms=5.0, block_ms=0.4, trips=4.0, keep_ms_per_mib=0.5),
)


@pytest.mark.parametrize("inner", NORMS)
def test_one_node_is_the_plans_model(inner: str) -> None:
    shape, norm = (32768, 8192), MixedNorm.parse(f"l1,{inner}", ndim=2)
    blocks = split(shape, norm, PROFILE.workers)
    told = Workload.of(shape, "float32", norm).predict(PROFILE, "ray", blocks, PROFILE.workers)
    parts = simulate(PROFILE, HARDWARE, 2**30, 1, inner)
    assert parts.wall_ms == pytest.approx(told.wall_ms)
    assert parts.bandwidth == pytest.approx(told.leaves_ms)
    assert parts.bound == "bandwidth"


@pytest.mark.parametrize(
    ("nbytes", "nodes", "change", "bound"),
    [
        (1e9, 1, {}, "bandwidth"),
        (1e13, 1, {}, "storage"),
        (1e12, 512, {"link_gb_s": 1e-3}, "root"),
        (1e9, 512, {"several": NodesCost(5.0, 2.0, 4.0, 0.5)}, "latency"),
        (1e9, 2, {"round_trip_ms": 1e4}, "latency"),
    ],
)
def test_bounds(nbytes: float, nodes: int, change: dict[str, Any], bound: str) -> None:
    assert simulate(PROFILE, replace(HARDWARE, **change), nbytes, nodes, "linf").bound == bound


def test_what_fits_in_memory_is_not_read_from_storage() -> None:
    assert simulate(PROFILE, HARDWARE, 1e12, 2, "linf").storage > 0
    assert simulate(PROFILE, HARDWARE, 1e12, 4, "linf").storage == 0


def test_bands_hold_what_was_drawn() -> None:
    calm = scale(PROFILE, HARDWARE, "linf", [Factors()])
    assert all(each["lower_s"] == each["wall_s"] == each["upper_s"] for each in calm)
    spread = {"large": np.array([0.5, 2.0]), "small": np.array([0.5, 2.0])}
    wide = scale(PROFILE, HARDWARE, "linf", draws(spread, np.array([1.0, 3.0])))
    assert all(each["lower_s"] < each["wall_s"] < each["upper_s"] for each in wide)
    assert all(each["bound"] in BOUNDS for each in wide)
    assert {(each["nbytes"], each["nodes"]) for each in wide} >= {(1e9, 1), (1e14, 1024)}
    assert all(each["speedup"] == 1 for each in wide if each["nodes"] == 1)


def point(wall_ms: float, predicted_ms: float, nbytes: int) -> Point:
    timing = {"engine": "ray", "workers": 2, "norm": "l1,linf"}
    return Point("strong", nbytes, (wall_ms,) * 3, (9.0,) * 3, 1.0, predicted_ms, timing)


def test_errors_are_told() -> None:
    points = [point(2.0, 1.0, 2**16), point(10.0, 8.0, 2**28)]
    spread = errors(points)
    assert (list(spread["small"]), list(spread["large"])) == ([2.0], [1.25])
    (row,) = validation(check_curves(points))
    assert (row["against"], row["runs"]) == ("one node, Ray", 2)
    assert row["worst"] == pytest.approx(0.5)
    assert row["median"] == pytest.approx(0.35)


def test_walls_over_two_nodes_are_predicted_from_smaller_ones() -> None:
    """Walls that follow the model itself are predicted without error, whatever the request adds."""
    profile, true = replace(PROFILE, workers=2), NodesCost(7.0, 0.6, 3.5, 0.8)
    wires: list[dict[str, Any]] = []
    walls: dict[str, list[dict[str, Any]]] = {"runs": [], "probes": []}
    for gbit_s, trip_ms in ((1.0, 0.1), (10.0, 0.1), (1.0, 10.0), (10.0, 10.0)):
        there = replace(HARDWARE, link_gb_s=gbit_s / 8)
        wires.append({"gbit_s": gbit_s, "round_trip_ms": trip_ms, "is": {"gbit_s": gbit_s, "round_trip_ms": trip_ms}})
        for kind, blocks, nbytes in (("probes", 2, 2**19), ("probes", 8, 2**21), ("probes", 2, 2**25),
                                     ("runs", 2, 2**26)):  # fmt: skip
            fibres = nbytes // 4 // 4096
            one = simulate(profile, there, nbytes, 1, "linf", columns=4096)
            wall_ms = one.bandwidth + one.root + 12 * fibres / there.link_gb_s / 1e6
            wall_ms += true.ms(blocks, trip_ms, nbytes / 2)
            walls[kind].append({"way": "tree", "gbit_s": gbit_s, "delay_ms": trip_ms, "nbytes": nbytes,
                                "blocks": blocks, "fibres": fibres, "wall_ms": wall_ms})  # fmt: skip
    found, checks = check_nodes(profile, HARDWARE, {"wires": wires, **walls})
    assert vars(found.several) == pytest.approx(vars(true), rel=1e-6)
    rows = {row["against"]: row for row in validation(checks)}
    assert rows["two nodes, moving the tree"]["runs"] == 4
    assert rows["two nodes, moving the tree"]["worst"] < 1e-6
    assert rows["two nodes, what was fitted"]["runs"] == 12
