"""The short form of the chaos: workers killed under a mixed load, and what counts as survived."""

import subprocess

import pytest
from chaos import FAULTS, meet
from tools.service import Service


@pytest.mark.kills
@pytest.mark.slow
def test_killed_workers_cost_no_answer(started: tuple[str, "subprocess.Popen[bytes]"]) -> None:
    """Nor a segment: whoever has started the service looks for those when it has ended."""
    (fault,) = [fault for fault in FAULTS if fault.name == "SIGKILL of workers"]
    tally, seen, recovered_s = meet(fault, Service(*started), 4)
    assert tally.wrong == []
    assert seen != "0 workers killed"
    assert recovered_s is not None
    assert sum(tally.right.values()) > 0


def test_faults_are_named_apart() -> None:
    names = [fault.name for fault in FAULTS]
    assert len(set(names)) == len(names)
