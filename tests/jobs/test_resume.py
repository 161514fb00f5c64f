"""Jobs that are killed, that meet another run, another input, another recipe, a full or a broken disk."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from normtree.errors import InvalidTensor, JobConflict, StorageFailed, StorageFull
from normtree.jobs.run import JobOptions, run_job
from normtree.jobs.storage import local
from normtree.jobs.storage.state import LocalState

INLINE = JobOptions(workers=2, engine="inline")
RULES = (
    "tensors = '.*(up|down)\\.weight'\nsparsity = 0.5",
    "tensors = '.*(half|conv)\\.weight'\nnorm = 'l1,l2'\nsparsity = 0.3\nscope = 'global'\n",
)
MOMENTS = int(os.environ.get("NORMTREE_KILLS", "6"))


@pytest.mark.kills
def test_killed_at_any_moment_it_resumes_to_the_same_bytes(tmp_path: Path, make_checkpoint: Any) -> None:
    make_checkpoint(tmp_path / "in", 4)
    rules = "\n".join(f"[[rules]]\n{rule}" for rule in RULES)
    (tmp_path / "recipe.toml").write_text(f"input = 'in'\noutput = 'out'\n{rules}")
    command = [sys.executable, str(Path(__file__).with_name("killed.py")), str(tmp_path / "recipe.toml"), str(MOMENTS)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == MOMENTS
    assert all(line["same"] and line["last"] == 0 and not line["half"] for line in lines), lines
    assert all(line["first"] is None for line in lines), lines
    assert any(line["first"] is None and line["shards_kept"] for line in lines), lines


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, original: Path, make_recipe: Any, files: Any) -> Any:
    """The output of a job that nothing happened to."""
    folder = tmp_path_factory.mktemp("straight")
    run_job(make_recipe(original, folder / "out", *RULES), INLINE)
    return files(folder / "out")


def failing_after(count: int, error: BaseException, real: Any) -> Any:
    """Make a function that does the real thing some times, and then raises."""
    left = [count]

    def called(*arguments: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise error
        return real(*arguments)

    return called


@pytest.mark.parametrize("after", [0, 1, 5, 9])
def test_a_disk_that_fills_up_is_told_and_the_job_resumes(
    checkpoint: Path,
    tmp_path: Path,
    make_recipe: Any,
    files: Any,
    monkeypatch: pytest.MonkeyPatch,
    after: int,
    straight: Any,
) -> None:
    recipe = make_recipe(checkpoint, tmp_path / "out", *RULES)
    before = files(checkpoint)
    with monkeypatch.context() as patched:
        full = OSError(errno.ENOSPC, "No space left on device")
        patched.setattr(os, "pwrite", failing_after(after, full, os.pwrite))
        with pytest.raises(StorageFull, match="No space left on device; make room and run the job again"):
            run_job(recipe, INLINE)
    assert files(checkpoint) == before
    assert not [name for name in files(tmp_path / "out") if name.endswith(".partial")]
    assert run_job(recipe, INLINE).resumed
    assert files(tmp_path / "out") == straight


def test_a_disk_that_cannot_be_read_is_told_and_the_job_resumes(
    checkpoint: Path, tmp_path: Path, make_recipe: Any, files: Any, monkeypatch: pytest.MonkeyPatch, straight: Any
) -> None:
    recipe = make_recipe(checkpoint, tmp_path / "out", *RULES)
    with monkeypatch.context() as patched:
        broken = OSError(errno.EIO, "Input/output error")
        patched.setattr(os, "preadv", failing_after(205, broken, os.preadv))
        with pytest.raises(StorageFailed, match=r"safetensors: Input/output error"):
            run_job(recipe, INLINE)
    run_job(recipe, INLINE)
    assert files(tmp_path / "out") == straight


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_shard_without_permission_is_told(checkpoint: Path, tmp_path: Path, make_recipe: Any) -> None:
    shard = next(checkpoint.glob("*00002*"))
    shard.chmod(0)
    with pytest.raises(StorageFailed, match="Permission denied"):
        run_job(make_recipe(checkpoint, tmp_path / "out", *RULES), INLINE)


def half_done(checkpoint: Path, target: Path, make_recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave a job with one shard in place."""
    with monkeypatch.context() as patched:
        real = local.LocalFolder.finish
        broken = StorageFailed("stop here")
        patched.setattr(local.LocalFolder, "finish", failing_after(1, broken, real))
        with pytest.raises(StorageFailed, match="stop here"):
            run_job(make_recipe(checkpoint, target, *RULES), INLINE)
    assert len(list(target.glob("*.safetensors"))) == 1


def test_shards_that_are_in_place_are_not_written_again(
    checkpoint: Path, tmp_path: Path, make_recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    half_done(checkpoint, tmp_path / "out", make_recipe, monkeypatch)
    (shard,) = (tmp_path / "out").glob("*.safetensors")
    before = shard.stat().st_mtime_ns
    outcome = run_job(make_recipe(checkpoint, tmp_path / "out", *RULES), INLINE)
    assert outcome.resumed
    assert shard.stat().st_mtime_ns == before
    assert len(outcome.facts) == 12


def test_a_shard_that_was_removed_since_is_written_again(
    checkpoint: Path, tmp_path: Path, make_recipe: Any, files: Any, monkeypatch: pytest.MonkeyPatch, straight: Any
) -> None:
    half_done(checkpoint, tmp_path / "out", make_recipe, monkeypatch)
    next((tmp_path / "out").glob("*.safetensors")).unlink()
    run_job(make_recipe(checkpoint, tmp_path / "out", *RULES), INLINE)
    assert files(tmp_path / "out") == straight


@pytest.mark.parametrize("change", ["touched", "another", "added"])
def test_a_changed_input_is_not_resumed(
    checkpoint: Path, tmp_path: Path, make_recipe: Any, files: Any, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    half_done(checkpoint, tmp_path / "out", make_recipe, monkeypatch)
    before = files(tmp_path)
    shard = sorted(checkpoint.glob("*.safetensors"))[1]
    if change == "touched":
        os.utime(shard)
    elif change == "another":
        stat = shard.stat()
        data = bytearray(shard.read_bytes())
        data[-1] ^= 1
        shard.write_bytes(bytes(data))
        os.utime(shard, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    else:
        (checkpoint / "more.txt").write_text("more")
    name = "more.txt" if change == "added" else shard.name
    with pytest.raises(JobConflict, match=rf"was begun with another input: {name} changed since"):
        run_job(make_recipe(checkpoint, tmp_path / "out", *RULES), INLINE)
    after = files(tmp_path)
    assert {n: d for n, d in after.items() if n.startswith("out")} == {
        n: d for n, d in before.items() if n.startswith("out")
    }


def test_a_changed_recipe_is_not_resumed(
    checkpoint: Path, tmp_path: Path, make_recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    half_done(checkpoint, tmp_path / "out", make_recipe, monkeypatch)
    with pytest.raises(JobConflict, match="was begun with another recipe"):
        run_job(make_recipe(checkpoint, tmp_path / "out", RULES[0]), INLINE)


def test_an_input_that_changes_under_the_job_is_told(
    checkpoint: Path, tmp_path: Path, make_recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = sorted(checkpoint.glob("*.safetensors"))[0]
    with pytest.raises(JobConflict, match=rf"{shard.name} changed while the job ran"):
        run_job(make_recipe(checkpoint, tmp_path / "out", *RULES), INLINE, lambda _: os.utime(shard))


def test_a_shard_that_shrinks_under_the_job_is_an_error_and_not_the_end(
    checkpoint: Path, tmp_path: Path, make_recipe: Any
) -> None:
    shard = sorted(checkpoint.glob("*.safetensors"))[1]

    def shrink(_: object) -> None:
        os.truncate(shard, 1000)

    with pytest.raises(StorageFailed, match="truncated while it was read"):
        run_job(make_recipe(checkpoint, tmp_path / "out", *RULES), INLINE, shrink)


def test_two_runs_on_one_output_refuse_each_other(checkpoint: Path, tmp_path: Path, make_recipe: Any) -> None:
    with (
        LocalState(str(tmp_path / "out.normtree")).lock(),
        pytest.raises(JobConflict, match="another run is writing this output"),
    ):
        run_job(make_recipe(checkpoint, tmp_path / "out", *RULES), INLINE)
    assert run_job(make_recipe(checkpoint, tmp_path / "out", *RULES), INLINE).facts


def test_a_disk_without_locks_is_named(
    checkpoint: Path, tmp_path: Path, make_recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(_: int, __: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(StorageFailed, match=r"out\.normtree/lock: cannot be locked, .*Function not implemented; put"):
        run_job(make_recipe(checkpoint, tmp_path / "out", *RULES), INLINE)


def test_a_completed_job_is_not_done_again(checkpoint: Path, tmp_path: Path, make_recipe: Any, files: Any) -> None:
    recipe = make_recipe(checkpoint, tmp_path / "out", *RULES)
    first = run_job(recipe, INLINE)
    before = files(tmp_path / "out")
    again = run_job(recipe, INLINE)
    assert again.was_completed
    assert again.facts == first.facts
    assert files(tmp_path / "out") == before


GLOBAL = "tensors = '.*(up|down)\\.weight'\nsparsity = 0.5\nscope = 'global'"


def aggregated(checkpoint: Path, target: Path, make_recipe: Any, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Leave a job whose tensors are all swept up and of which nothing is in place; return what it has kept."""
    with monkeypatch.context() as patched:
        patched.setattr(local.LocalFolder, "finish", failing_after(0, StorageFailed("stop here"), None))
        with pytest.raises(StorageFailed, match="stop here"):
            run_job(make_recipe(checkpoint, target, GLOBAL), INLINE)
    return sorted((target.with_name(target.name + ".normtree") / "aggregates").iterdir())


def test_what_one_task_swept_up_is_kept_in_one_file_and_not_swept_up_again(
    checkpoint: Path, tmp_path: Path, make_recipe: Any, files: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = aggregated(checkpoint, tmp_path / "out", make_recipe, monkeypatch)
    assert len(kept) == 3  # a shard's two tensors are one task
    outcome = run_job(make_recipe(checkpoint, tmp_path / "out", GLOBAL), INLINE)
    began = outcome.summary["began_ns"]
    assert {stint["kind"] for stint in outcome.stints if stint["start_ns"] > began} == {"down", "copy"}
    run_job(make_recipe(checkpoint, tmp_path / "straight", GLOBAL), INLINE)
    assert files(tmp_path / "out") == files(tmp_path / "straight")
    assert not list(kept[0].parent.iterdir())


@pytest.mark.parametrize("damage", ["a bit", "its end", "all of it", "another's"])
def test_aggregates_that_are_not_those_that_were_kept_are_made_again(
    checkpoint: Path, tmp_path: Path, make_recipe: Any, files: Any, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    first, second, _ = aggregated(checkpoint, tmp_path / "out", make_recipe, monkeypatch)
    data = bytearray(first.read_bytes())
    data[-300] ^= 1 << 5
    damaged = {"a bit": bytes(data), "its end": bytes(data[:-1]), "all of it": b"", "another's": second.read_bytes()}
    first.write_bytes(damaged[damage])
    run_job(make_recipe(checkpoint, tmp_path / "out", GLOBAL), INLINE)
    run_job(make_recipe(checkpoint, tmp_path / "straight", GLOBAL), INLINE)
    assert files(tmp_path / "out") == files(tmp_path / "straight")


@pytest.mark.parametrize("keep", [0, 10, 200])
def test_half_a_line_in_the_journal_is_as_good_as_none(
    checkpoint: Path,
    tmp_path: Path,
    make_recipe: Any,
    files: Any,
    monkeypatch: pytest.MonkeyPatch,
    keep: int,
    straight: Any,
) -> None:
    half_done(checkpoint, tmp_path / "out", make_recipe, monkeypatch)
    journal = tmp_path / "out.normtree" / "journal.jsonl"
    begun, shard = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(begun + shard[:keep])
    run_job(make_recipe(checkpoint, tmp_path / "out", *RULES), INLINE)
    assert files(tmp_path / "out") == straight


def test_a_job_that_failed_on_its_data_leaves_the_input_and_tells_the_same_again(
    tmp_path: Path, make_recipe: Any, checkpoint: Path
) -> None:
    shard = sorted(checkpoint.glob("*.safetensors"))[2]
    data = bytearray(shard.read_bytes())
    data[-400:] = b"\xff" * 400
    shard.write_bytes(bytes(data))
    recipe = make_recipe(
        checkpoint, tmp_path / "out", "tensors = '.*'\nnorm = 'l1,linf'\nsparsity = 0.1".replace(".*'", ".*(weight)'")
    )
    for _ in range(2):
        with pytest.raises(InvalidTensor, match="every element must be finite"):
            run_job(recipe, INLINE)


def test_the_copy_of_a_run_that_was_killed_while_it_measured_is_removed(
    checkpoint: Path, tmp_path: Path, make_recipe: Any, files: Any
) -> None:
    recipe = make_recipe(checkpoint, tmp_path / "out", *RULES)
    run_job(recipe, INLINE)
    wanted = files(tmp_path / "out")
    measured = max(sorted(checkpoint.glob("*.safetensors")), key=lambda shard: shard.stat().st_size)
    (tmp_path / "out" / f".{measured.stem}.floor.partial").write_bytes(b"half a copy")
    run_job(recipe, INLINE)
    assert files(tmp_path / "out") == wanted
