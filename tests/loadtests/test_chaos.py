"""The short form of the chaos: workers killed under a mixed load, and what counts as survived."""

import pytest
from chaos import FAULTS, survive


@pytest.mark.kills
@pytest.mark.slow
def test_killed_workers_cost_no_answer() -> None:
    (fault,) = [fault for fault in FAULTS if fault.name == "SIGKILL of workers"]
    found = survive(fault, 4)
    assert found["wrong"] == []
    assert found["segments_left"] == 0
    assert found["seen"] != "0 workers killed"
    assert found["recovered_s"] is not None
    assert found["passed"]
    assert sum(found["right"].values()) > 0


def test_faults_are_named_apart() -> None:
    names = [fault.name for fault in FAULTS]
    assert len(set(names)) == len(names)
