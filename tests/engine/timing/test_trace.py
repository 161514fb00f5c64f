"""The trace: one row a worker, pieces that do not overlap in it, in a format that viewers open."""

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from normtree.engine.projector import Projector
from normtree.engine.timing.trace import chrome_trace


def check_format(events: list[dict[str, Any]]) -> None:
    """What an importer wants: complete events in microseconds, and a name for each process and thread they are of."""
    named = [event for event in events if event["ph"] == "M"]
    pieces = [event for event in events if event["ph"] == "X"]
    assert len(named) + len(pieces) == len(events)
    assert all(isinstance(event["args"]["name"], str) for event in named)
    assert [event["pid"] for event in named if event["name"] == "process_name"] == [1]
    threads = [(event["pid"], event["tid"]) for event in named if event["name"] == "thread_name"]
    assert len(set(threads)) == len(threads) == len(named) - 1
    for piece in pieces:
        assert (piece["pid"], piece["tid"]) in threads
        assert piece["tid"] > 0, "thread 0 is the idle one"
        assert isinstance(piece["name"], str)
        assert 0 <= piece["ts"] < 1e9
        assert 0 <= piece["dur"] < 1e9


@pytest.mark.parametrize("engine", ["inline", "ray"])
def test_it_has_a_row_a_worker_and_an_event_a_piece(projector: Projector, engine: str) -> None:
    y = np.random.default_rng(3).standard_normal((2000, 1000), dtype=np.float32)
    plan = projector.plan(y.shape, "<f4", norm="l1,l1", radius=100.0, engine=engine, workers=2)
    _, timing = projector.project_array(y, plan)
    trace: dict[str, Any] = json.loads(json.dumps(chrome_trace(timing)))
    events = trace["traceEvents"]
    pieces = [event for event in events if event["ph"] == "X"]
    check_format(events)
    rows = {event["tid"] for event in events if event["name"] == "thread_name"}
    assert {piece["tid"] for piece in pieces} == rows
    assert {"up l1", "root", "down l1"} == {piece["name"] for piece in pieces}
    assert len(pieces) == 2 * len(plan.blocks) + 1
    assert min(piece["ts"] for piece in pieces) == 0
    assert sum(piece["dur"] for piece in pieces) / 1e3 == pytest.approx(timing.work_ms)
    for row in rows:
        own = sorted((piece["ts"], piece["ts"] + piece["dur"]) for piece in pieces if piece["tid"] == row)
        assert all(a[1] <= b[0] for a, b in pairwise(own)), "a row shows one piece at a time"
