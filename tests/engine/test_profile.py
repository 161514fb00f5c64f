"""Machine profiles: measured on this one, read back as written, kept for as long as they hold."""

from dataclasses import replace
from pathlib import Path

import pytest

from normtree.engine import bench as bench_module
from normtree.engine.bench import Bench
from normtree.engine.machine import Machine, this_machine
from normtree.engine.profile import Curve, EngineCost, MachineProfile, SweepCost
from normtree.engine.profile_store import load_profile, profile_path, save_profile
from normtree.engine.projector import Projector
from normtree.settings import Settings

LINE = Curve((10, 20, 40), (1.0, 3.0, 4.0))


@pytest.mark.parametrize(
    ("size", "wanted"), [(0, 1.0), (5, 1.0), (10, 1.0), (15, 2.0), (20, 3.0), (30, 3.5), (40, 4.0), (80, 8.0)]
)
def test_a_curve_is_straight_between_what_was_measured(size: int, wanted: float) -> None:
    assert LINE.at(size) == pytest.approx(wanted)


@pytest.mark.parametrize(("workers", "wanted"), [(1, 4.0), (2, 2.0), (3, 1.5), (4, 1.5)])
def test_workers_divide_the_work_until_they_saturate_the_memory(workers: int, wanted: float) -> None:
    cost = SweepCost(Curve((1, 10), (0.0, 4.0)), Curve((1, 10), (0.0, 1.5)), Curve((1,), (0.0,)))
    assert cost.ns(10, 10, workers) == pytest.approx(wanted)


def test_short_runs_take_longer() -> None:
    cost = SweepCost(Curve((1,), (1.0,)), Curve((1,), (1.0,)), Curve((4, 64), (2.0, 0.0)))
    assert cost.ns(2**20, 4, 1) == pytest.approx(2**20 + 2.0)
    assert cost.ns(2**20, 64, 1) == pytest.approx(2**20)


@pytest.fixture
def small_bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(bench_module, "LARGEST_BYTES", 1 << 20)
    monkeypatch.setattr(bench_module, "SIZES", dict.fromkeys(("rows", "columns", "packed"), (1 << 12, 1 << 18)))
    return Bench(2)


@pytest.mark.parametrize("layout", ["rows", "columns", "packed"])
def test_the_bench_times_real_sweeps(small_bench: Bench, layout: str) -> None:
    for cost in small_bench.leaf("l1", layout).values():  # type: ignore[arg-type]
        assert len(cost.serial.sizes) == len(cost.shared.sizes) == 2
        assert all(ns > 0 for ns in (*cost.serial.ns, *cost.shared.ns))
        assert min(cost.short.ns) == cost.short.ns[-1] == 0
    ratios = small_bench.ratios("l2", layout, ["float64", "bfloat16"])  # type: ignore[arg-type]
    assert all(ratio > 0 for taken in ratios.values() for ratio in taken.values())
    assert set(small_bench.bandwidth_gb_s()["copy"]) == {1, 2}


def test_the_projector_measures_its_engines_and_keeps_what_it_found(
    projector: Projector, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert set(projector.profile.engines) == {"inline", "ray"}
    assert projector.profile.engines["ray"].request_ms > 0
    path = profile_path(this_machine(), 2, ("inline", "ray"))
    assert load_profile(path) == projector.profile
    assert MachineProfile.from_json(projector.profile.to_json()) == projector.profile
    assert projector.profile.as_dict()["workers"] == 2


def test_a_kept_profile_is_taken_and_another_machine_s_is_not(projector: Projector) -> None:
    marked = replace(projector.profile, measured="once upon a time", engines={"inline": EngineCost(1.0, 2.0, 3.0, 4.0)})
    settings = Settings(workers=1, arena_bytes=2**24, inline_only=True)
    save_profile(profile_path(this_machine(), 1, ("inline",)), marked)
    with Projector.start(settings) as started:
        assert started.profile == marked
        assert started.measure() != marked
        assert load_profile(profile_path(this_machine(), 1, ("inline",))) == started.profile
    other = replace(this_machine(), processor="another")
    assert load_profile(profile_path(other, 1, ("inline",))) is None


@pytest.mark.parametrize("text", [b"", b"{}", b'{"workers": 2}', b"\xff"])
def test_what_is_no_profile_is_measured_again(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "profile.json"
    path.write_bytes(text)
    assert load_profile(path) is None


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path, projector: Projector) -> None:
    (tmp_path / "file").touch()
    save_profile(tmp_path / "file" / "profile.json", projector.profile)
    assert load_profile(tmp_path / "file" / "profile.json") is None


def test_a_machine_is_told_apart_by_what_computes() -> None:
    machine: Machine = this_machine()
    assert machine == this_machine()
    assert {"python", "normtree", "numpy", "numba", "ray"} <= set(machine.versions)
    paths = {
        profile_path(each, workers, engines)
        for each in (machine, replace(machine, sources="other"))
        for workers in (1, 2)
        for engines in (("inline",), ("inline", "ray"))
    }
    assert len(paths) == 8
