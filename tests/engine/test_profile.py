"""Machine profiles: measured on this one, read back as written, kept for as long as they hold."""

import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from threading import Event
from time import monotonic, sleep
from typing import Any

import pytest

from normtree.engine.plan import make_plan
from normtree.engine.profile.disturbance import Disturbance
from normtree.engine.profile.leaf_bench import Bench
from normtree.engine.profile.machine import Machine, this_machine
from normtree.engine.profile.machine_profile import Curve, Engine, EngineCost, MachineProfile, SweepCost
from normtree.engine.profile.store import load_profile, profile_path, save_profile
from normtree.engine.profile.units import size_text
from normtree.engine.profile.usual_machine import usual_profile
from normtree.engine.projector import Projector
from normtree.files.seal import seal
from normtree.settings import Settings
from normtree_kernels.norms.mixed_norm import MixedNorm
from normtree_kernels.tree.goal import Goal

LINE = Curve((10, 20, 40), (1.0, 3.0, 4.0))
INLINE: tuple[Engine, ...] = ("inline",)
BOTH: tuple[Engine, ...] = ("inline", "ray")


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
    assert load_profile(this_machine(), 2, ("inline", "ray")) == projector.profile
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
    marked = replace(projector.profile, disturbed=0.0, workers=1, engines={"inline": EngineCost(1.0, 2.0, 3.0, 4.0)})
    settings = Settings(workers=1, arena_bytes=2**24, inline_only=True)
    save_profile(marked)
    with Projector.start(settings) as started, measuring_little():
        assert started.profile == marked
        assert started.measure() != marked
        assert load_profile(this_machine(), 1, INLINE) == started.profile
    other = replace(this_machine(), processor="another")
    assert load_profile(other, 1, INLINE) is None


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


@pytest.fixture
def kept(projector: Projector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A profile's file in a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    save_profile(projector.profile)
    return profile_path(this_machine(), 2, ("inline", "ray"))


def loaded() -> MachineProfile | None:
    return load_profile(this_machine(), 2, ("inline", "ray"))


@pytest.mark.parametrize("text", [b"", b"{}", b'{"workers": 2}', b"\xff", b"[]", bytes(2**21)])
def test_what_is_no_profile_is_measured_again(kept: Path, text: bytes) -> None:
    for data in (text, seal(text, kept.name.encode())):
        kept.write_bytes(data)
        assert loaded() is None


def test_no_flipped_bit_of_a_profile_is_believed(kept: Path, projector: Projector) -> None:
    whole, bits = kept.read_bytes(), random.Random(11)
    for _ in range(100):
        bit = bits.randrange(8 * len(whole))
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        kept.write_bytes(data)
        assert loaded() is None, f"bit {bit} of {8 * len(whole)}"
    kept.write_bytes(whole)
    assert loaded() == projector.profile


def nonsense() -> list[Callable[[dict[str, Any]], object]]:
    """Profiles that are JSON of the right form, and by which nothing can be planned."""

    def all_numbers(value: float) -> Callable[[dict[str, Any]], object]:
        def change(each: Any) -> Any:
            if isinstance(each, dict):
                return {key: change(inner) for key, inner in each.items()}
            if isinstance(each, list):
                return [change(inner) for inner in each]
            return value if isinstance(each, int | float) else each

        return lambda plain: plain.update(change({key: plain[key] for key in plain if key != "machine"}))

    def curve(plain: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = plain["leaves"]["l1 rows"]["up"]["serial"]
        return found

    return [
        *map(all_numbers, (0, -1, math.nan, math.inf)),
        lambda plain: plain.update(workers=0),
        lambda plain: plain.update(leaves={}),
        lambda plain: plain.update(engines={}),
        lambda plain: plain.update(dtypes={}),
        lambda plain: plain.update(measured="2026-01-01T00:00:00"),
        lambda plain: plain["leaves"].pop("l2 packed"),
        lambda plain: plain["leaves"]["l2 packed"].pop("down"),
        lambda plain: plain["dtypes"].pop("l2 packed bfloat16"),
        lambda plain: plain["engines"]["ray"].update(slowdown=0.0),
        lambda plain: plain["engines"]["inline"].update(request_ms=-1.0),
        lambda plain: plain["bandwidth_gb_s"]["read"].update({"1": 0.0}),
        lambda plain: curve(plain).update(sizes=[], ns=[]),
        lambda plain: curve(plain)["ns"].pop(),
        lambda plain: curve(plain)["sizes"].reverse(),
        lambda plain: plain["machine"].update(processor="another"),
        lambda plain: plain.update(workers=3),
    ]


@pytest.mark.parametrize("change", nonsense())
def test_a_profile_that_makes_no_sense_is_measured_again(
    kept: Path, projector: Projector, change: Callable[[dict[str, Any]], object]
) -> None:
    plain = projector.profile.as_dict()
    change(plain)
    kept.write_bytes(seal(json.dumps(plain).encode(), kept.name.encode()))
    assert loaded() is None


@pytest.mark.parametrize("place", ["fifo", "device", "folder", "link"])
def test_what_is_no_file_is_not_waited_for_and_makes_room(kept: Path, projector: Projector, place: str) -> None:
    kept.rename(kept.with_name("elsewhere"))
    if place == "fifo":
        os.mkfifo(kept)
    elif place == "folder":
        kept.mkdir()
    else:
        kept.symlink_to("/dev/zero" if place == "device" else "elsewhere")
    assert loaded() is None
    save_profile(projector.profile)
    assert (loaded() == projector.profile) == (place != "folder")


FILL = """
import resource, sys
from pathlib import Path
from normtree.engine.profile.machine import this_machine
from normtree.engine.profile.store import save_profile
from normtree.engine.profile.usual_machine import usual_profile
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
save_profile(usual_profile(this_machine(), 2, ("inline", "ray")))
"""


def test_a_full_disk_keeps_nothing_of_a_profile(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "XDG_CACHE_HOME": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    subprocess.run([sys.executable, "-c", FILL], env=environment, check=True)
    assert list((tmp_path / "normtree").iterdir()) == []


@pytest.mark.parametrize("place", ["file", "~nobody/of/this/name", "/proc/normtree"])
def test_a_folder_that_cannot_be_written_is_no_error(
    tmp_path: Path, projector: Projector, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / place) if place == "file" else place)
    save_profile(projector.profile)
    assert loaded() is None


@pytest.mark.parametrize("engines", [("inline",), ("inline", "ray")])
@pytest.mark.parametrize("workers", [1, 4])
def test_a_usual_machine_can_be_planned_by(workers: int, engines: tuple[Any, ...]) -> None:
    profile = usual_profile(this_machine(), workers, engines)
    profile.check()
    assert profile.is_due
    assert "not been measured" in profile.circumstances
    assert profile.readable()["measured"] is None
    small, large = (
        make_plan(shape, "float32", MixedNorm.parse("l1,linf", ndim=2), Goal(1.0), profile=profile, max_workers=workers)
        for shape in ((8, 8), (8192, 8192))
    )
    assert (small.engine, small.workers) == ("inline", 1)
    assert large.engine == engines[-1]
    assert (large.workers > 1) == (workers > 1)


def test_a_machine_is_told_apart_by_what_computes() -> None:
    machine: Machine = this_machine()
    assert machine == this_machine()
    assert {"python", "normtree", "numpy", "numba", "ray"} <= set(machine.versions)
    paths = {
        profile_path(each, workers, engines)
        for each in (machine, replace(machine, sources="other"))
        for workers in (1, 2)
        for engines in (INLINE, BOTH)
    }
    assert len(paths) == 8
