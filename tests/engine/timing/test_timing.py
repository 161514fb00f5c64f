"""The timing: one schema, filled from clocks."""

import json

import pytest

from normtree.engine.plan import Plan
from normtree.engine.run import Run
from normtree.engine.timing.phases import Phase
from normtree.engine.timing.schema import Span, Timing
from normtree.engine.timing_of_run import make_timing
from normtree_kernels import MixedNorm
from normtree_kernels.tree.blocks import split
from normtree_kernels.tree.goal import Goal, Reach

SCHEMA = {
    "engine", "reason", "norm", "axes", "radius", "shape", "dtype", "blocks", "workers", "nodes", "stages_ms", "levels",
    "work_ms", "span_ms", "wall_ms", "serial_ms", "serial_is", "speedup", "parallelism", "efficiency", "overhead_ms",
    "retries", "bytes_moved", "trace_id", "groups_asked", "groups_left", "warning",
}  # fmt: skip
MS = 1_000_000


def timing() -> Timing:
    """Two leaves up (4 and 6 ms), a root of 1 ms, two leaves down (8 and 5 ms), in a wall of 20 ms."""
    norm = MixedNorm.parse("l1,linf", ndim=2)
    plan = Plan((8, 8), "float32", norm, Goal(1.0), False, "ray", 2, "asked", split((8, 8), norm, 2), {}, 30.0)
    ups = (Span("up", 1, 1 * MS, 5 * MS, 100, 1), Span("up", 1, 1 * MS, 7 * MS, 100, 2))
    step = Span("up", 0, 8 * MS, 8 * MS + MS // 2, 64, 1)
    root = Span("root", 0, 8 * MS, 9 * MS, 64, 1)
    downs = (Span("down", 1, 10 * MS, 18 * MS, 200, 1), Span("down", 1, 11 * MS, 16 * MS, 200, 2))
    phases = (Phase("up", ups, 7 * MS), Phase("root", (root,), 9 * MS), Phase("down", downs, 20 * MS))
    run = Run((2.0,), True, Reach(1.0), phases, (step,), start_ns=0, bytes_moved=192, retries=0)
    return make_timing([plan], run, 30.0, "measured")


def test_it_has_the_schema_and_is_json() -> None:
    plain = json.loads(json.dumps(timing().as_dict()))
    assert set(plain) == SCHEMA
    assert set(plain["levels"][0]) == {"norm", "tasks", "wall_ms", "work_ms", "span_ms", "bytes", "gb_per_s"}


def test_work_span_and_what_follows_from_them() -> None:
    t = timing()
    assert t.work_ms == pytest.approx(4 + 6 + 1 + 8 + 5)
    assert t.span_ms == pytest.approx(6 + 1 + 8)
    assert t.wall_ms == pytest.approx(20)
    assert t.overhead_ms == pytest.approx(5)
    assert t.speedup == pytest.approx(1.5)
    assert t.efficiency == pytest.approx(0.75)
    assert t.parallelism == pytest.approx(24 / 15)


def test_stages_add_up_to_the_wall() -> None:
    t = timing()
    assert dict(t.stages_ms) == pytest.approx({"up": 7, "root": 2, "down": 11})
    assert sum(t.stages_ms.values()) == pytest.approx(t.wall_ms)


def test_levels_are_told_apart() -> None:
    outer, inner = timing().levels
    assert (outer.norm, outer.tasks, inner.norm, inner.tasks) == ("l1", 1, "linf", 4)
    assert outer.wall_ms == pytest.approx(0.5)
    assert (inner.work_ms, inner.span_ms, inner.wall_ms) == pytest.approx((23, 14, 14))
    assert inner.gb_per_s == pytest.approx(600 / 14e6)


def test_stages_outside_the_engine_are_added_in_order() -> None:
    stages = timing().with_stages(total=30.0, receive=1.0).stages_ms
    assert list(stages) == ["receive", "up", "root", "down", "total"]


def test_an_unknown_stage_is_refused() -> None:
    with pytest.raises(ValueError, match="got lunch"):
        timing().with_stages(lunch=1.0)
