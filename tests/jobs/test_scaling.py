"""A job takes time as it has tensors, and no more than that: counted in steps of our code, not in seconds."""

import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import normtree
from normtree.jobs.run import JobOptions, plan_job, run_job

INLINE = JobOptions(workers=2, engine="inline")
OURS = str(Path(normtree.__file__).parent)
SIZES = (50, 100, 200)
SCOPES = ("tensor", "global")
TOLERANCE = 0.05  # of a count; a step for each pair of tensors would be half of it


def write_shards(folder: Path, shards: int, tensors: int) -> Path:
    """Write small tensors, so many a shard."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for shard in range(shards):
        names = [f"experts.{shard * tensors + i}.weight" for i in range(tensors)]
        save_file(
            {name: rng.standard_normal((6, 5)).astype(np.float32) for name in names}, folder / f"{shard}.safetensors"
        )
    return folder


@contextmanager
def counting() -> Iterator[Callable[[], int]]:
    """Count the instructions that run in modules of ours, in all threads that begin meanwhile too."""
    steps = itertools.count()
    ours: dict[CodeType, bool] = {}

    def enter(frame: FrameType, event: str, argument: object) -> Any:
        code = frame.f_code
        if code not in ours:
            ours[code] = code.co_filename.startswith(OURS)
        if not ours[code]:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return step

    def step(frame: FrameType, event: str, argument: object) -> Any:
        next(steps)
        return step

    before = sys.gettrace()
    threading.settrace(enter)
    sys.settrace(enter)
    try:
        yield lambda: next(steps)
    finally:
        sys.settrace(before)
        threading.settrace(None)


def grows_in_a_line(counts: list[int]) -> bool:
    """Tell whether twice as many more tensors take twice as many more steps."""
    first, second = np.diff(counts)
    return bool(abs(second / (2 * first) - 1) < TOLERANCE)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("spread", ["tensors", "shards", "behind a URL"])
def test_steps_of_a_job_grow_with_its_tensors_and_no_faster(
    tmp_path: Path, make_recipe: Any, scope: str, spread: str
) -> None:
    rule = f"tensors = '.*weight'\nsparsity = 0.5\nscope = '{scope}'"
    planned, run = [], []
    for size in SIZES:
        folder = tmp_path / str(size)
        source = write_shards(folder / "in", *((size // 5, 5) if spread == "shards" else (1, size)))
        target = f"memory:/{folder}/out" if spread == "behind a URL" else folder / "out"
        recipe = make_recipe(source, target, rule)
        with counting() as steps:
            plan = plan_job(recipe, INLINE)
            assert str(plan)
            planned.append(steps())
        assert len(plan.works) == size
        with counting() as steps:
            assert len(run_job(recipe, INLINE).facts) == size
            run.append(steps())
    assert grows_in_a_line(planned), planned
    assert grows_in_a_line(run), run
