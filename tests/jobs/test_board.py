"""The board outlives what becomes of a job's process."""

import sys
import time
from pathlib import Path
from typing import Any

import pytest

from normtree.jobs.board import Job, JobBoard
from normtree.jobs.recipe import recipe_of

RULE = {"tensors": r".*up\.weight", "sparsity": 0.5}
MEMORY_BYTES = 2**26


def ended(board: JobBoard, job: Job) -> Job:
    end_s = time.monotonic() + 240
    while board.get(job.id).ended is None and time.monotonic() < end_s:
        time.sleep(0.05)
    return board.get(job.id)


@pytest.fixture
def recipe(tmp_path: Path, make_checkpoint: Any) -> Any:
    make_checkpoint(tmp_path / "in")
    return recipe_of({"input": str(tmp_path / "in"), "output": str(tmp_path / "out"), "rules": [RULE]})


def test_a_job_that_cannot_be_started_fails_and_the_next_one_runs(
    tmp_path: Path, recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = JobBoard(tmp_path / "board", 1, MEMORY_BYTES)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(tmp_path / "nowhere"))
        failed = ended(board, board.submit(recipe, None)[0])
    assert failed.state == "failed"
    assert failed.error is not None
    assert "it did not start" in failed.error["detail"]
    assert ended(board, board.submit(recipe, None)[0]).state == "completed"
    board.close()


def test_lines_that_are_not_the_job_s_are_passed_over(
    tmp_path: Path, recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    noisy = tmp_path / "python"
    noisy.write_text(f'#!/bin/sh\necho a library says hello\necho 3\nexec {sys.executable} "$@"\n')
    noisy.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(noisy))
    board = JobBoard(tmp_path / "board", 1, MEMORY_BYTES)
    job = ended(board, board.submit(recipe, None)[0])
    assert job.state == "completed"
    assert job.progress["bytes_done"] == job.progress["bytes_total"] > 0
    board.close()
