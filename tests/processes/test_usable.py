"""What of a machine may be used: control groups of both versions, laid out as the kernel does, and a real one."""

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from uuid import uuid4

import pytest

from normtree.engine.profile.machine import this_machine
from normtree.processes import cgroups, usable
from normtree.settings import Settings

GIB = 2**30
MEMINFO = "MemTotal:       16777216 kB\nMemFree:         1048576 kB\nMemAvailable:    8388608 kB\n"
NO_BOUND_OF_1 = 9223372036854771712


class Machine:
    """A machine as files tell of it.

    Args:
        root: a folder that stands for ``/``.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("proc/meminfo", MEMINFO)

    def write(self, name: str, text: object) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")

    def mount(self, *lines: str) -> None:
        """Tell of mounts: what is seen, where, and the kind and its options."""
        words = (line.split() for line in lines)
        told = (
            f"31 23 0:28 {top} {place} rw,relatime shared:9 - {kind} {kind} {how}" for top, place, kind, how in words
        )
        self.write("proc/self/mountinfo", "22 1 8:1 / / rw - ext4 /dev/root rw\n" + "\n".join(told))

    def version_2(self, group: str, top: str = "/") -> None:
        self.mount(f"{top} /sys/fs/cgroup cgroup2 rw")
        self.write("proc/self/cgroup", f"0::{group}")

    def version_1(self, group: str, top: str = "/") -> None:
        self.mount(
            f"{top} /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct",
            f"{top} /sys/fs/cgroup/memory cgroup rw,memory",
            "/ /sys/fs/cgroup/unified cgroup2 rw",
        )
        self.write("proc/self/cgroup", f"5:memory:{group}\n3:cpu,cpuacct:{group}\n1:name=systemd:/\n0::/")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("200000 100000", 2),
        ("250000 100000", 2),
        ("50000 100000", 1),
        ("1000 50000", 1),
        ("6400000 100000", 64),
        ("12800000 100000", 64),
        ("max 100000", 64),
        ("", 64),
        ("nonsense", 64),
        ("100000 0", 64),
    ],
)
def test_a_quota_of_version_2(machine: Machine, many_cores: None, quota: str, cores: int) -> None:
    machine.version_2("/")
    machine.write("sys/fs/cgroup/cpu.max", quota)
    assert usable.cores(machine.root) == cores


@pytest.mark.parametrize(("quota", "period", "cores"), [(400000, 100000, 4), (150000, 50000, 3), (-1, 100000, 64)])
def test_a_quota_of_version_1(machine: Machine, many_cores: None, quota: int, period: int, cores: int) -> None:
    machine.version_1("/docker/one", "/docker/one")  # a container without a namespace of groups
    machine.write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", quota)
    machine.write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", period)
    assert usable.cores(machine.root) == cores


@pytest.mark.parametrize(("above", "own", "cores"), [(8, 4, 4), (3, 4, 3), (None, 4, 4), (2, None, 2)])
def test_a_group_grants_no_more_than_those_above_it(
    machine: Machine, many_cores: None, above: int | None, own: int | None, cores: int
) -> None:
    for version, names in ((2, ("cpu.max",)), (1, ("cpu.cfs_quota_us", "cpu.cfs_period_us"))):
        folder = "sys/fs/cgroup" if version == 2 else "sys/fs/cgroup/cpu,cpuacct"
        (machine.version_2 if version == 2 else machine.version_1)("/a/b/c")
        for group, count in (("a", above), ("a/b/c", own)):
            values = ("max" if version == 2 else -1) if count is None else 100000 * count
            texts = (f"{values} 100000",) if version == 2 else (values, 100000)
            for name, text in zip(names, texts, strict=True):
                machine.write(f"{folder}/{group}/{name}", text)
        assert usable.cores(machine.root) == cores


def test_a_container_sees_its_own_group_at_the_top(machine: Machine, many_cores: None) -> None:
    machine.version_2("/kubepods/pod7/one/inner", "/kubepods/pod7/one")
    machine.write("sys/fs/cgroup/cpu.max", "300000 100000")
    machine.write("sys/fs/cgroup/inner/cpu.max", "200000 100000")
    assert usable.cores(machine.root) == 2
    machine.version_2("/../elsewhere")  # moved out of what it sees
    assert usable.cores(machine.root) == 3


def test_places_with_blanks_are_found(machine: Machine, many_cores: None) -> None:
    machine.mount(r"/ /sys/my\040groups cgroup2 rw")
    machine.write("proc/self/cgroup", "0::/a:b")
    machine.write("sys/my groups/a:b/cpu.max", "200000 100000")
    assert usable.cores(machine.root) == 2


def test_without_groups_all_that_may_be_used_is(machine: Machine) -> None:
    assert usable.cores(machine.root) == len(os.sched_getaffinity(0))
    assert usable.memory_bytes(machine.root) == 16 * GIB
    assert usable.free_memory_bytes(machine.root) == 8 * GIB
    assert usable.memory_bytes(machine.root / "nothing") > 0


@pytest.mark.parametrize(
    ("limit", "high", "memory", "free"),
    [
        ("max", "max", 16, 8),
        (4 * GIB, "max", 4, 3),
        (4 * GIB, 2 * GIB, 2, 1),
        (64 * GIB, "max", 16, 8),
        (GIB, "max", 1, 0),
    ],
)
def test_memory_of_version_2(machine: Machine, limit: object, high: object, memory: int, free: int) -> None:
    machine.version_2("/a")
    for name, text in (("max", limit), ("high", high), ("current", 2 * GIB)):
        machine.write(f"sys/fs/cgroup/a/memory.{name}", text)
    machine.write("sys/fs/cgroup/a/memory.stat", f"anon {GIB}\ninactive_file {GIB // 2}\nactive_file {GIB // 2}")
    assert usable.memory_bytes(machine.root) == memory * GIB
    assert usable.free_memory_bytes(machine.root) == free * GIB


@pytest.mark.parametrize(("limit", "memory", "free"), [(NO_BOUND_OF_1, 16, 8), (4 * GIB, 4, 3)])
def test_memory_of_version_1(machine: Machine, limit: int, memory: int, free: int) -> None:
    machine.version_1("/a/b")
    machine.write("sys/fs/cgroup/memory/a/memory.limit_in_bytes", limit)
    machine.write("sys/fs/cgroup/memory/a/memory.usage_in_bytes", 2 * GIB)
    told = f"cache 1\ninactive_file 1\ntotal_inactive_file {GIB // 4}\ntotal_active_file {3 * GIB // 4}"
    machine.write("sys/fs/cgroup/memory/a/memory.stat", told)
    machine.write("sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", NO_BOUND_OF_1)
    assert usable.memory_bytes(machine.root) == memory * GIB
    assert usable.free_memory_bytes(machine.root) == free * GIB


def test_all_ask_the_same_place() -> None:
    assert Settings().workers == this_machine().cores == usable.cores()


def asked() -> str:
    """What a process of its own says of its cores."""
    command = [sys.executable, "-c", "from normtree.processes import usable; print(usable.cores())"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_cores_that_are_taken_away_are_not_counted() -> None:
    here = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(here)})  # of this thread, and so of what it starts
        assert asked() == "1"
    finally:
        os.sched_setaffinity(0, here)


@pytest.fixture
def group() -> Iterator[Path]:
    """A real group below this process's own, with a quota of one core."""
    groups = dict(cgroups._groups(Path("/")))
    for mount in cgroups._mounts(Path("/")):
        if mount.version == 2 or "cpu" in mount.controllers:
            own = next(cgroups._chain(mount, groups.get("cpu" if mount.version == 1 else "", PurePosixPath("/"))), None)
            made = own / f"normtree-test-{uuid4().hex}" if own else None
            try:
                assert made
                made.mkdir()
            except OSError:
                continue
            try:
                if mount.version == 1:
                    (made / "cpu.cfs_quota_us").write_text("100000")
                elif (made / "cpu.max").exists():
                    (made / "cpu.max").write_text("100000 100000")
                else:  # the controller is not handed down to it
                    continue
                yield made
                return
            except OSError:
                continue
            finally:
                made.rmdir()
    pytest.skip("no control group can be made here")


def test_a_real_quota_is_seen(group: Path) -> None:
    assert len(os.sched_getaffinity(0)) >= 1
    program = f"open({str(group / 'cgroup.procs')!r}, 'w').write('0')\nfrom normtree.processes import cgroups, usable\n"
    command = [sys.executable, "-c", program + "print(cgroups.cpu_quota(), usable.cores())"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1.0", "1"]
    assert cgroups.cpu_quota() == math.inf or cgroups.cpu_quota() >= 1
