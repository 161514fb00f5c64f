"""Kernels ahead: all that a plan runs is named, what is missing is compiled beside the work, and it is said."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from threading import Event
from time import monotonic, sleep
from typing import Any

import httpx
import numpy as np
import pytest

import normtree_kernels as nk
from normtree.engine.kernels import ALL, FIRST, Kernels, compiled, load_kept, warm_kernels
from normtree.engine.plan import make_plan
from normtree.engine.profile.machine import this_machine
from normtree.engine.profile.usual_machine import usual_profile
from normtree.engine.warm_up import WarmUp
from normtree_kernels.norms.mixed_norm import MixedNorm
from normtree_kernels.tree.goal import Goal

NOWHERE = "/proc/normtree"
NONE_YET = (Kernels("linf", "float32"), Kernels("linf", "float64"))

# One process for each projection, in which no kernel is loaded: it prints how many are when the plan's are, and after.
RUN = """
import gc, os
import numpy as np
from numba.core.dispatcher import Dispatcher
from normtree.engine.profile.machine import this_machine
from normtree.engine.projector import Projector
from normtree.engine.kernels import prepare
from normtree.settings import Settings
from normtree_kernels.dtypes import BFLOAT16

def loaded():
    kernels = [each for each in gc.get_objects() if isinstance(each, Dispatcher)]
    return sum(sum(k.stats.cache_hits.values()) + sum(k.stats.cache_misses.values()) for k in kernels)

for shape, dtype, norm, axes, goal, exact in (
    ((6, 4), "float32", "l1,linf", None, {"radius": 1.0}, False),
    ((6, 4), "float32", "l1,linf", "1,0", {"sparsity": 0.5}, False),
    ((6, 4), "float64", "l1,l1", "1,0", {"groups": 2}, False),
    ((6, 4), "bfloat16", "l2,l2", None, {"radius": 1.0}, False),
    ((6, 4), "float16", "linf", None, {"radius": 0.1}, False),
    ((6, 4, 3), "float32", "l1,l2,linf", "0,2,1", {"radius": 1.0}, False),
    ((6, 4), "float32", "l1,linf", "1,0", {"radius": 1.0}, True),
    ((300_000,), "float32", "l1", None, {"radius": 1.0}, False),
):
    if os.fork():
        status = os.wait()[1]
        assert status == 0, status
        continue
    try:
        with Projector.start(Settings(inline_only=True, workers=2, arena_bytes=2**24), warm="none") as projector:
            workers = 2 if shape == (300_000,) else None
            plan = projector.plan(shape, dtype, norm=norm, axes=axes, **goal, exact=exact, workers=workers)
            assert plan.in_parts == (workers == 2)
            prepare(plan.kernels)
            before = loaded()
            y = np.random.default_rng(0).standard_normal(shape).astype(BFLOAT16 if dtype == "bfloat16" else dtype)
            projector.project_array(y, plan)
            print(before, loaded(), flush=True)
    finally:
        os._exit(bool(__import__("sys").exc_info()[0]))
"""


def test_a_plan_names_the_kernels_that_it_runs() -> None:
    warm_kernels()
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    counts = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert [after - before for before, after in counts] == [0] * 8
    assert all(0 < before < 12 for before, _ in counts)


def test_those_that_most_requests_need_are_those_of_default_plans() -> None:
    profile = usual_profile(this_machine(), 2, ("inline", "ray"))
    needed = set[Kernels]()
    for axes in ("0,1", "1,0"):
        norm = MixedNorm.parse("l1,linf", axes, ndim=2)
        needed |= make_plan((64, 64), "float32", norm, Goal(1.0), profile=profile, max_workers=2).kernels
    assert needed == set(FIRST)
    assert set(FIRST) < set(ALL)
    assert len(set(ALL)) == len(ALL)


def test_all_are_there_when_they_have_been_compiled_once() -> None:
    warm_kernels()
    assert load_kept(ALL) == []


def test_compiling_is_logged_and_its_place(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "normtree.engine.kernels"):
        assert list(compiled([])) == []
        assert caplog.messages == []
        assert list(compiled(NONE_YET)) == list(NONE_YET)
    first, *_, last = caplog.messages
    assert first.startswith("compiling kernels: 1 of 2, to be kept in /")
    assert last.startswith("compiled kernels: 2 of 2, in ")


def wait_for(happens: Callable[[], object]) -> None:
    end_s = monotonic() + 60
    while not happens():
        assert monotonic() < end_s
        sleep(0.01)


def test_what_waits_for_kernels_waits_for_a_quiet_moment_too() -> None:
    busy, done = Event(), Event()
    busy.set()
    warm_up = WarmUp(NONE_YET, busy.is_set, done.set)
    wait_for(lambda: warm_up.left == 0)
    assert not done.wait(1.5)
    busy.clear()
    assert done.wait(60)
    warm_up.close()


def test_closed_it_compiles_no_more_and_calls_nobody() -> None:
    called = Event()
    warm_up = WarmUp(NONE_YET * 500, lambda: False, called.set)
    wait_for(lambda: warm_up.left < 1000)
    warm_up.close()
    assert warm_up.left > 0
    assert not called.is_set()


def test_what_cannot_be_compiled_ahead_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    warm_up = WarmUp([Kernels("l3", "float32")], lambda: False, lambda: None)
    warm_up._thread.join(60)
    assert "warming up has ended early" in caplog.messages
    assert warm_up.left == 1
    warm_up.close()


@pytest.mark.slow
def test_a_service_whose_kernels_are_not_kept_is_ready_before_all_are_compiled(
    serve: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", NOWHERE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    y = np.random.default_rng(0).standard_normal((20, 10))
    with (
        serve(tmp_path / "log.txt", inline_only=True, arena_bytes=2**26) as (url, _),
        httpx.Client(base_url=url) as client,
    ):
        info = client.get("/v1/info").json()
        assert info["engine"]["kernels"]["groups"] == len(ALL)
        assert info["engine"]["kernels"]["to_compile"] > 0
        assert info["profile"]["measured"] is None
        for norm, dtype in (("l1,linf", np.float32), ("l2,l2", np.float64)):  # there; and compiled for it
            tensor = y.astype(dtype)
            body = tmp_path / "y.npy"
            np.save(body, tensor)
            answer = client.post(
                "/v1/project", params={"norm": norm, "radius": 1.5}, content=body.read_bytes(),
                headers={"Content-Type": "application/x-npy"}, timeout=60,
            )  # fmt: skip
            assert answer.status_code == 200, answer.text
            (tmp_path / "x.npy").write_bytes(answer.content)
            assert np.load(tmp_path / "x.npy").tobytes() == nk.project(tensor, norm, 1.5).tobytes()
    log = (tmp_path / "log.txt").read_text()
    assert "compiled kernels are not kept, so that each start compiles them again" in log
    assert "set NUMBA_CACHE_DIR" in log
