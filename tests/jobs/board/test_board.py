"""The board outlives what becomes of a job's process."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from normtree.engine.cluster.process import Process
from normtree.errors import JobConflict, NotReady, QueueFull, StorageFailed
from normtree.files.seal import seal, unseal
from normtree.jobs.board import board as board_module
from normtree.jobs.board.board import JobBoard
from normtree.jobs.board.job import Job
from normtree.jobs.board.job_files import Notes
from normtree.jobs.recipe import Recipe, recipe_of

RULE = {"tensors": r".*up\.weight", "sparsity": 0.5}
MEMORY_BYTES = 2**26


def ended(board: JobBoard, job: Job) -> Job:
    end_s = time.monotonic() + 240
    while board.get(job.id).ended is None and time.monotonic() < end_s:
        time.sleep(0.05)
    return board.get(job.id)


def until(found: Callable[[], object]) -> None:
    end_s = time.monotonic() + 60
    while not found():
        assert time.monotonic() < end_s
        time.sleep(0.05)


@contextmanager
def opened(folder: Path, **options: Any) -> Iterator[JobBoard]:
    board = JobBoard(folder, 1, MEMORY_BYTES, **options)
    try:
        yield board
    finally:
        board.close()


def program(path: Path, text: str) -> str:
    """Write what is started in the interpreter's place."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return str(path)


def noted(path: Path) -> dict[str, Any]:
    """Read a note."""
    found: dict[str, Any] = json.loads(unseal(path.read_bytes()) or b"{}")
    return found


def is_cancelled(note: Path) -> bool:
    return bool(noted(note)["state"] == "cancelled")


def sealed(note: dict[str, Any]) -> bytes:
    return seal(json.dumps(note).encode())


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let jobs be done at once: what they do does not matter."""
    monkeypatch.setattr(sys, "executable", program(tmp_path / "quick", "exit 0"))


def other(recipe: Recipe, name: str) -> Recipe:
    return recipe.model_copy(update={"output": f"{recipe.output}-{name}"})


@contextmanager
def unwritable(folder: Path) -> Iterator[None]:
    """Put a file where the folder is: what writes there fails, for root too."""
    aside = folder.with_name("aside")
    folder.rename(aside)
    folder.touch()
    yield
    folder.unlink()
    aside.rename(folder)


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
    assert failed.error["detail"] == "exit status 127" or "it did not start" in str(failed.error["detail"])
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


@pytest.mark.usefixtures("quick")
def test_what_cannot_be_noted_is_not_taken_and_may_be_posted_again(tmp_path: Path, recipe: Any) -> None:
    with opened(tmp_path / "board") as board:
        with unwritable(tmp_path / "board"), pytest.raises(StorageFailed, match="board"):
            board.submit(recipe, "k")
        assert board.page(10) == []
        job, new = board.submit(recipe, "k")
        assert new
        assert ended(board, job).state == "completed"
        assert board.submit(recipe, "k") == (board.get(job.id), False)


@pytest.mark.usefixtures("quick")
def test_an_end_that_cannot_be_noted_is_noted_later_and_the_next_job_runs(
    tmp_path: Path, recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "board"
    with opened(folder) as board:
        with monkeypatch.context() as patch:
            go = tmp_path / "go"
            patch.setattr(sys, "executable", program(tmp_path / "python", f"until [ -e {go} ]; do sleep 0.05; done"))
            job = board.submit(recipe, None)[0]
            until(lambda: board.get(job.id).state == "running")
        with unwritable(folder):
            go.touch()
            assert ended(board, job).state == "completed"
            until(lambda: board.trouble)
            with pytest.raises(StorageFailed):
                board.submit(recipe, None)
        until(lambda: not board.trouble)
        assert noted(folder / f"{job.id}.job")["state"] == "completed"
        assert ended(board, board.submit(other(recipe, "next"), None)[0]).state == "completed"


@pytest.mark.usefixtures("quick")
def test_what_is_no_note_is_set_aside_and_named(tmp_path: Path, recipe: Any, caplog: Any) -> None:
    folder = tmp_path / "board"
    with opened(folder) as board:
        job = ended(board, board.submit(recipe, None)[0])
    whole = (folder / f"{job.id}.job").read_bytes()
    note = noted(folder / f"{job.id}.job")
    bad = {
        "cut": whole[:-1],
        "unsealed": whole[:-32],
        "garbage": b"{",
        "created": sealed(note | {"id": "0" * 32, "created": "today"}),
        "nan": sealed(note | {"created": float("nan")}),
        "recipe": sealed(note | {"recipe": None}),
        "rules": sealed(note | {"recipe": {"input": "a", "output": "b", "rules": []}}),
        "state": sealed(note | {"state": "lost"}),
        "name": sealed(note),
        "long": b" " * 2**22,
    }
    for name, content in bad.items():
        (folder / f"{name}.job").write_bytes(content)
    os.mkfifo(folder / "pipe.job")
    (folder / "link.job").symlink_to("/etc/passwd")
    (folder / "folder.job").mkdir()
    with caplog.at_level(logging.WARNING), opened(folder) as board:
        assert [each.id for each in board.page(100)] == [job.id]
        assert ended(board, board.submit(other(recipe, "next"), None)[0]).state == "completed"
    for name in (*bad, "pipe", "link"):
        assert os.path.lexists(folder / f"{name}.job.set-aside")
        assert f"{folder}/{name}.job: set aside" in caplog.text


@pytest.mark.usefixtures("quick")
def test_a_bit_that_flips_in_a_note_makes_it_none(tmp_path: Path, recipe: Any, caplog: Any) -> None:
    folder = tmp_path / "board"
    with opened(folder) as board:
        job = ended(board, board.submit(recipe, None)[0])
    note = folder / f"{job.id}.job"
    whole = note.read_bytes()
    notes = Notes(folder)
    rng = np.random.default_rng(0)
    for at in rng.choice(len(whole), 100, replace=False).tolist():
        data = bytearray(whole)
        data[at] ^= 1 << int(rng.integers(8))
        note.write_bytes(data)
        assert notes.open() == []
    assert caplog.text.count("set aside") == 100
    note.write_bytes(whole)
    assert notes.open() == [job]
    notes.close()


def test_notes_are_their_owners_alone(tmp_path: Path, recipe: Any) -> None:
    folder = tmp_path / "board"
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    with opened(folder) as board:
        job = board.submit(recipe, None)[0]
        assert folder.stat().st_mode & 0o777 == 0o700
        assert (folder / f"{job.id}.job").stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_notes_in_a_folder_of_somebody_else_are_not_believed(
    tmp_path: Path, recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board_module, "_OPEN_S", 0.2)
    (tmp_path / "board").mkdir()
    os.chown(tmp_path / "board", 65534, 65534)
    with opened(tmp_path / "board") as board, pytest.raises(StorageFailed, match="belongs to user 65534"):
        board.submit(recipe, None)


def test_a_second_service_waits_for_the_folder(tmp_path: Path, recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", program(tmp_path / "python", "exec sleep 100"))
    with opened(tmp_path / "board") as first:
        job = first.submit(recipe, None)[0]
        until(lambda: first.get(job.id).state == "running")
        monkeypatch.setattr(board_module, "_OPEN_S", 0.2)
        with opened(tmp_path / "board") as second:
            for ask in (lambda: second.submit(recipe, None), lambda: second.page(1), lambda: second.get(job.id)):
                with pytest.raises(NotReady, match="another service takes the jobs of these folders"):
                    ask()
            assert first.get(job.id).state == "running"
            first.close()
            assert first.get(job.id).state == "interrupted"
            until(lambda: not second.trouble)
            assert second.get(job.id).state == "interrupted"


@pytest.mark.usefixtures("quick")
def test_an_interrupted_job_goes_on_when_it_is_posted_again(
    tmp_path: Path, recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", program(tmp_path / "python", "exec sleep 100"))
        with opened(tmp_path / "board") as board:
            job = board.submit(recipe, "k")[0]
            until(lambda: board.get(job.id).state == "running")
    with opened(tmp_path / "board") as board:
        assert board.get(job.id).state == "interrupted"
        with pytest.raises(JobConflict, match="another recipe"):
            board.submit(other(recipe, "next"), "k")
        again, runs = board.submit(recipe, "k")
        assert (again.id, again.state, again.ended, runs) == (job.id, "queued", None, True)
        assert ended(board, job).state == "completed"


def test_so_many_jobs_wait_and_so_many_are_remembered(
    tmp_path: Path, recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board_module, "_KEPT", 2)
    with opened(tmp_path / "board", queue_limit=3) as board:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", program(tmp_path / "python", "exec sleep 100"))
            first = board.submit(recipe, None)[0]
            until(lambda: board.get(first.id).state == "running")
        jobs = [board.submit(other(recipe, str(i)), None)[0] for i in range(3)]
        with pytest.raises(QueueFull, match="at most 3 jobs of a key may wait"):
            board.submit(other(recipe, "more"), None)
        assert [job.id for job in board.page(2)] == [jobs[2].id, jobs[1].id]
        assert [job.id for job in board.page(9, jobs[1].id)] == [jobs[0].id, first.id]
        for _ in range(2):  # who is cancelled makes room, is noted while another runs, and is forgotten in time
            job = board.cancel(jobs.pop().id)
            note = tmp_path / "board" / f"{job.id}.job"
            until(partial(is_cancelled, note))
            jobs.insert(0, board.submit(other(recipe, "more"), None)[0])
        assert board.get(first.id).state == "running"
        for job in (*jobs, first):
            board.cancel(job.id)
        until(lambda: len(list((tmp_path / "board").glob("*.job"))) == 2)
        assert len(board.page(9)) == 2


@pytest.mark.usefixtures("quick")
def test_owners_take_turns_and_have_each_their_own_queue_keys_and_memory(
    tmp_path: Path, recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board_module, "_KEPT", 2)
    with opened(tmp_path / "board", queue_limit=2) as board:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", program(tmp_path / "python", "exec sleep 100"))
            first = board.submit(recipe, "k", "ada")[0]
            until(lambda: board.get(first.id).state == "running")
        for name in ("a1", "a2"):
            board.submit(other(recipe, name), None, "ada")
        with pytest.raises(QueueFull):
            board.submit(other(recipe, "a3"), None, "ada")
        bob = board.submit(other(recipe, "b"), "k", "bob")
        assert bob[1]
        assert bob[0].id != first.id
        board.cancel(first.id)
        until(lambda: all(job.ended for job in board.page(9)) and len(board.page(9, owner="ada")) == 2)
        assert [job.owner for job in board.page(9, owner="bob")] == ["bob"]
        ends = {job.recipe["output"].rpartition("-")[2]: job.ended or 0.0 for job in board.page(9)}
        assert ends["b"] < ends["a2"]  # though it was posted after it


@pytest.mark.usefixtures("quick")
def test_a_job_that_is_stopped_is_killed_and_the_next_one_runs(
    tmp_path: Path, recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path / "board") as board:
        with monkeypatch.context() as patch:
            pid = tmp_path / "pid"
            patch.setattr(sys, "executable", program(tmp_path / "python", f"echo $$ > {pid}; kill -STOP $$; sleep 100"))
            job = board.submit(recipe, None)[0]
            until(lambda: pid.exists() and pid.read_text())
        assert board.cancel(job.id).state == "cancelled"
        assert ended(board, board.submit(other(recipe, "next"), None)[0]).state == "completed"
        assert not Path(f"/proc/{pid.read_text().strip()}").exists()


SERVICE = """
import sys, time
from pathlib import Path
from normtree.jobs.board.board import JobBoard
from normtree.jobs.recipe import Recipe
sys.executable = sys.argv[2]
board = JobBoard(Path(sys.argv[1]), 1, 2**26)
board.submit(Recipe.model_validate_json(sys.argv[3]), None)
time.sleep(1000)
"""


def test_a_job_ends_with_its_service_however_that_ends(tmp_path: Path, recipe: Any) -> None:
    pid = tmp_path / "pid"
    stubborn = program(tmp_path / "python", f"trap '' TERM; echo $$ > {pid}; while :; do sleep 1; done")
    command = [sys.executable, "-c", SERVICE, str(tmp_path / "board"), stubborn, recipe.model_dump_json()]
    service = subprocess.Popen(command)
    until(lambda: pid.exists() and pid.read_text())
    child = Process(int(pid.read_text()))
    service.send_signal(signal.SIGKILL)
    service.wait()
    until(lambda: child.has_ended)


def test_what_a_job_writes_to_standard_error_is_logged_as_one(
    tmp_path: Path, recipe: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    text = "echo 'Traceback (most recent call last):' >&2; echo '  ValueError: no' >&2; exit 1"
    monkeypatch.setattr(sys, "executable", program(tmp_path / "python", text))
    with caplog.at_level(logging.WARNING), opened(tmp_path / "board") as board:
        job = ended(board, board.submit(recipe, None)[0])
    assert job.error is not None
    assert job.error["detail"] == "exit status 1"
    (record,) = [record for record in caplog.records if hasattr(record, "fields")]
    assert record.fields == {
        "job": job.id,
        "stderr": "Traceback (most recent call last):\n  ValueError: no",
    }
