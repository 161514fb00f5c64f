"""Machine profiles: measured on this one, read back as written, kept for as long as they hold."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from threading import Event
from time import monotonic, sleep
from typing import Any

import pytest

from normtree.engine.bench import Bench
from normtree.engine.disturbance import Disturbance
from normtree.engine.machine import Machine, this_machine
from normtree.engine.profile import Curve, EngineCost, MachineProfile, SweepCost
from normtree.engine.profile_store import load_profile, profile_path, save_profile
from normtree.engine.projector import Projector
from normtree.engine.units import size_text
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
def small_bench(measuring_little: Any) -> Iterator[Bench]:
    with measuring_little():
        yield Bench(2, 1 << 20)


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
    assert 0.0 <= projector.profile.disturbed < 1.0


def test_people_read_rates(projector: Projector) -> None:
    shared = projector.profile.leaves["linf rows"]["up"].shared
    told = projector.profile.readable()
    assert set(told["memory_gb_per_s"]["read"]) == {"1 thread", "2 threads"}  # type: ignore[index]
    rates = told["leaves_gb_per_s"]["linf rows"]["up"]["2 threads"]  # type: ignore[index]
    assert list(rates) == [size_text(size) for size in shared.sizes]
    assert list(rates.values()) == [round(size / ns, 2) for size, ns in zip(shared.sizes, shared.ns, strict=True)]
    cost = EngineCost(request_ms=2 / 3, block_ms=0.0, moved_ms_per_mib=1e4, slowdown=2e-5 / 3)
    told = replace(projector.profile, disturbed=2 / 3, engines={"inline": cost}).readable()
    costs = {"request_ms": 0.667, "block_ms": 0.0, "moved_ms_per_mib": 1e4, "slowdown": 6.67e-6}
    assert (told["disturbed"], told["engines"]) == (0.67, {"inline": costs})


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (1023, "1023 bytes"),
        (1536, "1.5 KiB"),
        (4 * 10**8, "381.5 MiB"),
        (2**53, "8192 TiB"),
    ],
)
def test_sizes_in_units(nbytes: int, text: str) -> None:
    assert size_text(nbytes) == text


def test_a_kept_profile_is_taken_and_another_machine_s_is_not(projector: Projector, measuring_little: Any) -> None:
    marked = replace(projector.profile, disturbed=0.0, engines={"inline": EngineCost(1.0, 2.0, 3.0, 4.0)})
    settings = Settings(workers=1, arena_bytes=2**24, inline_only=True)
    save_profile(profile_path(this_machine(), 1, ("inline",)), marked)
    with Projector.start(settings) as started, measuring_little():
        assert started.profile == marked
        assert started.measure() != marked
        assert load_profile(profile_path(this_machine(), 1, ("inline",))) == started.profile
    other = replace(this_machine(), processor="another")
    assert load_profile(profile_path(other, 1, ("inline",))) is None


def test_a_disturbed_profile_is_measured_again_after_a_while(projector: Projector) -> None:
    now = datetime.now(UTC)
    for disturbed, age, due in ((0.0, 24, False), (0.5, 0, False), (0.5, 24, True)):
        aged = replace(projector.profile, disturbed=disturbed, measured=now - timedelta(hours=age))
        assert aged.is_due == due


def test_waiting_for_a_processor_is_a_disturbance() -> None:
    core, done = min(os.sched_getaffinity(0)), Event()

    def spin(_: int) -> None:
        os.sched_setaffinity(0, {core})  # this thread alone
        end_s = monotonic() + 0.5
        while monotonic() < end_s:
            sha256(bytes(1 << 20))  # without the interpreter's lock
        done.wait(10)

    with ThreadPoolExecutor(3) as pool:
        with Disturbance() as disturbance:
            spinning = [pool.submit(spin, i) for i in range(3)]
            sleep(0.6)
        done.set()
        wait(spinning)
    assert 0.3 < disturbance.share < 1.0  # three wanted the core, one had it


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
