"""The short form of the soak, on the real service: no wrong answer, nothing lost, nothing grows."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tools.service import Service
from tools.watch import Growth, Sample, growth, sample, tree
from traffic.flows import mixed
from traffic.job_load import JobTally
from traffic.mixed import Tally
from traffic.served_jobs import ServedTally
from traffic.soak import passed, soak

SECONDS = 8.0


@pytest.mark.slow
def test_mixed_load(started: tuple[str, "subprocess.Popen[bytes]"], jobs_root: Path) -> None:
    found = soak(Service(*started), jobs_root, SECONDS)
    assert found["wrong"] == []
    assert found["broken"] == {}
    assert [each for each in found["growth"] if not each["flat"]] == []
    assert found["jobs"]["lost"] == []
    assert found["jobs"]["done"] > 0
    assert found["served_jobs"]["lost"] == []
    assert found["served_jobs"]["done"] > 0
    assert found["passed"]
    assert found["right"].keys() == {flow.name for flow in mixed()}  # every flow was sent, and answered as it must be
    assert sum(found["right"].values()) + sum(found["refused"].values()) == found["sent"]


def samples(**rising: float) -> list[Sample]:
    """A run of which one value rises all the time."""
    steady: dict[str, Any] = {
        "anonymous_mib": 500.0, "segments": 8, "segments_mib": 64.0, "descriptors": 100, "processes": 7,
    }  # fmt: skip
    return [
        Sample(at_s=n, **{**steady, **{name: steady[name] + n * step for name, step in rising.items()}})
        for n in range(100)
    ]


@pytest.mark.parametrize("what", ["anonymous_mib", "segments", "descriptors", "processes"])
def test_growth_is_seen(what: str) -> None:
    assert {each.what for each in growth(samples(**{what: 2.0})) if not each.flat} == {what}


def test_steady_is_flat() -> None:
    assert all(each.flat for each in growth(samples()))


def test_a_few_samples_tell_nothing() -> None:
    with pytest.raises(ValueError, match="at least 10"):
        growth(samples()[:9])


@pytest.mark.parametrize(
    ("tally", "jobs", "served", "grown", "wanted"),
    [
        (Tally(), JobTally(done=1), ServedTally(done=1), [], True),
        (Tally(wrong=["small: 200"]), JobTally(), ServedTally(), [], False),
        (Tally(), JobTally(lost=["other bytes"]), ServedTally(), [], False),
        (Tally(), JobTally(), ServedTally(lost=["failed"]), [], False),
        (Tally(), JobTally(), ServedTally(), [Growth("segments", 4, 9, 4)], False),
        (Tally(), JobTally(), ServedTally(), [Growth("segments", 4, 8, 4)], True),
    ],
)
def test_what_passes(tally: Tally, jobs: JobTally, served: ServedTally, grown: list[Growth], wanted: bool) -> None:
    assert passed(tally, jobs, served, grown) is wanted


def test_watch_sees_children_and_their_memory() -> None:
    code = "import sys; held = bytearray(b'x') * (64 << 20); print('up', flush=True); sys.stdin.read()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout
    assert child.stdin
    child.stdout.readline()
    try:
        found = sample(child.pid, 1.0)
        assert found.anonymous_mib >= 64
        assert found.processes == 1
        assert found.descriptors >= 3
        assert child.pid in tree(child.pid)
    finally:
        child.stdin.close()
        child.stdout.close()
        child.wait()
    assert sample(child.pid, 2.0).anonymous_mib == 0
