"""What is in place is looked at and not believed: outputs, journals, aggregates, and the input while it is read."""

import errno
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from normtree.errors import JobConflict
from normtree.files import enclosure
from normtree.jobs.plan import job_plan as job_plan
from normtree.jobs.run import JobOptions, run_job
from normtree.jobs.storage import local

INLINE = JobOptions(workers=1, engine="inline")
RULES = ("tensors = '.*w'\nsparsity = 0.5", "tensors = '.*g'\nsparsity = 0.5\nscope = 'global'")
NAMES = ("a.safetensors", "b.safetensors", "c.safetensors")
SHARD = "b.safetensors"
OTHER = "sub/config.json"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards and another file, each of a tensor for itself and one of a ball for all."""
    folder = tmp_path_factory.mktemp("proof") / "model"
    (folder / "sub").mkdir(parents=True)
    for index, name in enumerate(NAMES):
        rng = np.random.default_rng(index)
        arrays = {f"{index}.{kind}": rng.standard_normal((60, 20)).astype(np.float32) for kind in "wg"}
        save_file(arrays, folder / name)
    (folder / OTHER).write_text('{"a": 1}')
    return folder


@pytest.fixture(scope="module")
def wanted(model: Path, tmp_path_factory: pytest.TempPathFactory, make_recipe: Any, files: Any) -> Any:
    """The output of a job that nothing happened to."""
    folder = tmp_path_factory.mktemp("wanted")
    run_job(make_recipe(model, folder / "out", *RULES), INLINE)
    return files(folder / "out")


@pytest.fixture
def recipe(model: Path, tmp_path: Path, make_recipe: Any) -> Any:
    return make_recipe(model, tmp_path / "out", *RULES)


@pytest.fixture
def out(recipe: Any, tmp_path: Path, wanted: Any) -> Path:
    """The output of a job that has completed."""
    run_job(recipe, INLINE)
    return tmp_path / "out"


def flip(path: Path, at: int = -1) -> None:
    """Change a bit, and put the time back."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    found = {path: path.stat() for path in folder.rglob("*") if path.is_file()}
    return {str(path.relative_to(folder)): (stat.st_ino, stat.st_mtime_ns) for path, stat in found.items()}


# --- an output that was completed ---------------------------------------------------------------------------------

DAMAGES: dict[str, Callable[[Path], object]] = {
    "gone": Path.unlink,
    "cut": lambda path: os.truncate(path, 5),
    "empty": lambda path: os.truncate(path, 0),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"0"),
    "renamed": lambda path: path.rename(path.with_name("old")),
    "a bit, the time put back": flip,
    "a link": lambda path: (path.rename(path.with_name("old")), path.symlink_to("old")),
    "a link to nowhere": lambda path: (path.unlink(), path.symlink_to("nowhere")),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a FIFO": lambda path: (path.unlink(), os.mkfifo(path)),
}


@pytest.mark.parametrize("name", [SHARD, OTHER])
@pytest.mark.parametrize("damage", DAMAGES)
def test_what_of_a_completed_output_is_missing_or_differs_is_made_again_and_no_more(
    recipe: Any, out: Path, wanted: Any, files: Any, damage: str, name: str
) -> None:
    before = stamps(out)
    DAMAGES[damage](out / name)
    outcome = run_job(recipe, INLINE)
    assert not outcome.was_completed
    assert len(outcome.facts) == 6
    there = files(out)
    there.pop(str(Path(name).with_name("old")), None)
    assert there == wanted
    assert not (out / name).is_symlink()
    after = stamps(out)
    assert {other for other in wanted if after[other] != before[other]} == {name}
    assert run_job(recipe, INLINE).was_completed


def test_a_completed_output_that_is_gone_is_made_again(recipe: Any, out: Path, wanted: Any, files: Any) -> None:
    shutil.rmtree(out)
    assert not run_job(recipe, INLINE).was_completed
    assert files(out) == wanted


@pytest.mark.parametrize("name", [SHARD, OTHER])
def test_what_was_in_the_place_of_an_output_is_kept(recipe: Any, out: Path, wanted: Any, files: Any, name: str) -> None:
    for count, mine in enumerate((b"mine", b"mine too"), 1):
        (out / name).write_bytes(mine)
        run_job(recipe, INLINE)
        assert files(out) == wanted
        kept = out.with_name("out.normtree") / "replaced" / (name if count == 1 else f"{name}.{count}")
        assert kept.read_bytes() == mine


@pytest.mark.parametrize("touched", ["permissions", "time", "copied", "another disk"])
def test_an_output_that_only_looks_different_is_read_and_left(
    recipe: Any, out: Path, wanted: Any, files: Any, touched: str
) -> None:
    path = out / SHARD
    if touched == "permissions":
        path.chmod(0o600)
    elif touched == "time":
        os.utime(path)
    elif touched == "copied":
        shutil.copy(path, out / "copy")
        (out / "copy").rename(path)
    else:
        shutil.copytree(out, out.with_name("new"))
        shutil.rmtree(out)
        out.with_name("new").rename(out)
    before = stamps(out)
    assert run_job(recipe, INLINE).was_completed
    assert stamps(out) == before


def test_a_completed_output_is_not_read_again(recipe: Any, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    real = enclosure.Enclosure.open

    def opened(self: Any, name: str, flags: int = os.O_RDONLY) -> int:
        read.append(f"{self.path}/{name}")
        return real(self, name, flags)

    monkeypatch.setattr(enclosure.Enclosure, "open", opened)
    assert run_job(recipe, INLINE).was_completed
    assert read
    assert not [path for path in read if path.startswith(f"{out}/")]


# --- a job that was stopped ---------------------------------------------------------------------------------------


class Stopped(Exception):
    """Stands for a kill: nothing that the job would do after it is done."""


def stop_before(monkeypatch: pytest.MonkeyPatch, recipe: Any, method: str, name: str) -> None:
    """Run a job up to where it calls a method for a file, and leave what is there then."""
    real = getattr(local.LocalFolder, method)

    def called(self: Any, at: str, *more: Any) -> Any:
        if at == name:
            raise Stopped
        return real(self, at, *more)

    with monkeypatch.context() as patched:
        patched.setattr(local.LocalFolder, method, called)
        patched.setattr(local.LocalFolder, "discard", lambda self, name: None)
        with pytest.raises(Stopped):
            run_job(recipe, INLINE)


def test_a_shard_that_was_finished_and_not_in_its_place_is_put_there_and_not_made_again(
    recipe: Any, tmp_path: Path, wanted: Any, files: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    stop_before(monkeypatch, recipe, "place", SHARD)
    beside = out / f".{SHARD}.partial"
    before = beside.stat()
    assert not (out / SHARD).exists()
    run_job(recipe, INLINE)
    assert files(out) == wanted
    after = (out / SHARD).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_finished_shard_that_was_changed_since_is_made_again(
    recipe: Any, tmp_path: Path, wanted: Any, files: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_before(monkeypatch, recipe, "place", SHARD)
    beside = tmp_path / "out" / f".{SHARD}.partial"
    beside.write_bytes(bytes(beside.stat().st_size))
    run_job(recipe, INLINE)
    assert files(tmp_path / "out") == wanted


@pytest.mark.parametrize("name", [SHARD, OTHER])
def test_a_job_that_was_stopped_between_a_files_two_names_goes_on(
    recipe: Any, tmp_path: Path, wanted: Any, files: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    real = os.unlink

    def unlink(path: str, **more: Any) -> None:
        if path == f".{Path(name).name}.partial" and (tmp_path / "out" / name).exists():
            raise Stopped
        real(path, **more)

    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", unlink)
        with pytest.raises(Stopped):
            run_job(recipe, INLINE)
    assert (tmp_path / "out" / name).stat().st_nlink == 2
    run_job(recipe, INLINE)
    assert files(tmp_path / "out") == wanted


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("name", [SHARD, OTHER])
def test_a_file_that_comes_into_an_outputs_place_while_the_job_runs_is_left(
    recipe: Any, tmp_path: Path, wanted: Any, files: Any, monkeypatch: pytest.MonkeyPatch, name: str, links: bool
) -> None:
    out = tmp_path / "out"

    def put(_: object) -> None:
        if not (out / name).exists():
            (out / name).parent.mkdir(exist_ok=True)
            (out / name).write_bytes(b"mine")

    def link(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    with monkeypatch.context() as patched:
        if not links:
            patched.setattr(os, "link", link)
        with pytest.raises(JobConflict, match=rf"out/{name}: somebody put it there while the job ran"):
            run_job(recipe, INLINE, put)
    assert (out / name).read_bytes() == b"mine"
    assert not list(out.rglob(".*"))
    run_job(recipe, INLINE)
    assert files(out) == wanted
    assert (tmp_path / "out.normtree" / "replaced" / name).read_bytes() == b"mine"


@pytest.mark.parametrize("name", [SHARD, OTHER])
def test_an_output_that_goes_while_the_job_runs_is_told_and_made_again(
    recipe: Any, tmp_path: Path, wanted: Any, files: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    real = local.LocalFolder.place

    def place(self: Any, at: str) -> None:
        real(self, at)
        if at == name:
            (tmp_path / "out" / name).unlink()

    with monkeypatch.context() as patched:
        patched.setattr(local.LocalFolder, "place", place)
        with pytest.raises(JobConflict, match=rf"{name} was removed or changed while the job ran; run it again"):
            run_job(recipe, INLINE)
    run_job(recipe, INLINE)
    assert files(tmp_path / "out") == wanted


def is_refused(recipe: Any) -> bool:
    """Run a job to its end, or have it refused for what is in the folder of its state."""
    try:
        outcome = run_job(recipe, INLINE)
    except JobConflict as error:
        if "out.normtree: the job there" in str(error):
            return True
        raise
    assert len(outcome.facts) == 6
    return False


# --- the folder of its state --------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["the folder", "the journal", "half of the journal"])
def test_a_state_that_goes_while_the_job_runs_ends_it(
    recipe: Any, tmp_path: Path, wanted: Any, files: Any, what: str
) -> None:
    state = tmp_path / "out.normtree"

    def remove(_: object) -> None:
        if what == "the folder":
            shutil.rmtree(state, ignore_errors=True)
        elif what == "the journal":
            (state / "journal.jsonl").unlink(missing_ok=True)
        elif (state / "journal.jsonl").stat().st_size > 100:
            os.truncate(state / "journal.jsonl", 100)

    with pytest.raises(JobConflict, match=r"journal\.jsonl: removed or changed while the job ran"):
        run_job(recipe, INLINE, remove)
    shutil.rmtree(state, ignore_errors=True)
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    run_job(recipe, INLINE)
    assert files(tmp_path / "out") == wanted


@pytest.mark.parametrize("kept", ["journal", "aggregates"])
def test_a_bit_that_flips_in_what_a_stopped_job_has_kept_changes_no_byte(
    recipe: Any, tmp_path: Path, wanted: Any, files: Any, monkeypatch: pytest.MonkeyPatch, kept: str
) -> None:
    monkeypatch.setattr(job_plan, "LEAST_TASK_BYTES", 1 << 10)
    stop_before(monkeypatch, recipe, "place", NAMES[2])
    for name in ("out", "out.normtree"):
        (tmp_path / name).rename(tmp_path / f"{name}.left")
    left = tmp_path / "out.normtree.left"
    paths = [left / "journal.jsonl"] if kept == "journal" else sorted((left / "aggregates").iterdir())
    size = sum(path.stat().st_size for path in paths)
    rng = np.random.default_rng(0)
    done = 0
    for at in sorted(rng.choice(size, 50, replace=False).tolist()):
        for name in ("out", "out.normtree"):
            shutil.rmtree(tmp_path / name, ignore_errors=True)
            shutil.copytree(tmp_path / f"{name}.left", tmp_path / name, symlinks=True)
        for path in paths:
            if at < path.stat().st_size:
                damaged = tmp_path / "out.normtree" / path.relative_to(left)
                data = bytearray(damaged.read_bytes())
                data[at] ^= 1 << int(rng.integers(8))
                damaged.write_bytes(data)
                break
            at -= path.stat().st_size
        if is_refused(recipe):
            continue
        done += 1
        assert files(tmp_path / "out") == wanted
    assert done == 50 if kept == "aggregates" else done > 0


def test_a_bit_that_flips_in_the_journal_of_a_completed_job_changes_no_byte(
    recipe: Any, out: Path, wanted: Any, files: Any
) -> None:
    journal = out.with_name("out.normtree") / "journal.jsonl"
    whole = journal.read_bytes()
    rng = np.random.default_rng(1)
    for at in rng.choice(len(whole), 50, replace=False).tolist():
        data = bytearray(whole)
        data[at] ^= 1 << int(rng.integers(8))
        journal.write_bytes(data)
        is_refused(recipe)
        assert files(out) == wanted


@pytest.mark.parametrize("lost", range(5))
def test_a_line_that_is_lost_from_the_journal_of_a_completed_job_is_made_again_or_told(
    recipe: Any, out: Path, wanted: Any, files: Any, lost: int
) -> None:
    journal = out.with_name("out.normtree") / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    assert len(lines) == 5
    journal.write_bytes(b"".join(lines[:lost] + lines[lost + 1 :]))
    if lost == 0:
        with pytest.raises(JobConflict, match="has a damaged journal, whose beginning is lost"):
            run_job(recipe, INLINE)
    else:
        assert len(run_job(recipe, INLINE).facts) == 6
    assert files(out) == wanted


@pytest.mark.parametrize("body", [b'{"what":"\xd7"', b'{"what":', b'{"other":1', b'{"what":1', b'{"a":' + b"[" * 5000])
def test_a_line_that_no_job_writes_is_not_there_though_it_matches_its_digest(
    recipe: Any, out: Path, wanted: Any, files: Any, body: bytes
) -> None:
    with (out.with_name("out.normtree") / "journal.jsonl").open("ab") as journal:
        journal.write(body + b',"sha256":"' + hashlib.sha256(body).hexdigest().encode() + b'"}\n')
    assert run_job(recipe, INLINE).was_completed
    assert files(out) == wanted


def test_a_journal_of_an_older_version_is_told(recipe: Any, out: Path) -> None:
    journal = out.with_name("out.normtree") / "journal.jsonl"
    journal.write_text('{"what":"begun","version":1,"recipe":"0","input":{}}\n')
    with pytest.raises(JobConflict, match=r"was written by another version of normtree \(1\)"):
        run_job(recipe, INLINE)


def test_an_empty_journal_does_not_make_an_output_ours(recipe: Any, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / SHARD).write_bytes(b"mine")
    (tmp_path / "out.normtree").mkdir()
    (tmp_path / "out.normtree" / "journal.jsonl").touch()
    with pytest.raises(JobConflict, match=f"{SHARD} is there already"):
        run_job(recipe, INLINE)
    assert (tmp_path / "out" / SHARD).read_bytes() == b"mine"


def test_aggregates_of_an_earlier_job_are_not_taken_for_this_ones(
    model: Path, tmp_path: Path, make_recipe: Any, wanted: Any, files: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_plan, "LEAST_TASK_BYTES", 1 << 10)
    shutil.copytree(model, tmp_path / "other")
    for index, name in enumerate(NAMES):
        arrays = {f"{index}.{kind}": np.full((60, 20), index + 1, np.float32) for kind in "wg"}
        save_file(arrays, tmp_path / "other" / name)
    stop_before(monkeypatch, make_recipe(tmp_path / "other", tmp_path / "out", *RULES), "finish", NAMES[0])
    assert list((tmp_path / "out.normtree" / "aggregates").iterdir())
    (tmp_path / "out.normtree" / "journal.jsonl").unlink()
    shutil.rmtree(tmp_path / "out")
    run_job(make_recipe(model, tmp_path / "out", *RULES), INLINE)
    assert files(tmp_path / "out") == wanted


# --- the input while it is read -----------------------------------------------------------------------------------


def rewritten(path: Path, data: bytes) -> None:
    """Write a file anew with its time put back."""
    before = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("name", [*NAMES, OTHER])
def test_an_input_that_is_rewritten_while_the_job_runs_is_told_were_its_time_put_back(
    model: Path, tmp_path: Path, make_recipe: Any, wanted: Any, files: Any, name: str
) -> None:
    source = Path(shutil.copytree(model, tmp_path / "in"))
    whole = (source / name).read_bytes()
    recipe = make_recipe(source, tmp_path / "out", RULES[0])
    left = [True]

    def rewrite(_: object) -> None:
        if left.pop() if left else False:
            rewritten(source / name, whole[:-4] + bytes(4))

    with pytest.raises(JobConflict, match=f"{name} changed while the job ran"):
        run_job(recipe, INLINE, rewrite)
    assert not (tmp_path / "out" / name).exists()
    rewritten(source / name, whole)
    run_job(recipe, INLINE)
    run_job(make_recipe(model, tmp_path / "straight", RULES[0]), INLINE)
    assert files(tmp_path / "out") == files(tmp_path / "straight")


def test_an_input_whose_permissions_changed_between_two_runs_is_the_same(
    model: Path, tmp_path: Path, make_recipe: Any, wanted: Any, files: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_plan, "LEAST_TASK_BYTES", 1 << 10)
    source = Path(shutil.copytree(model, tmp_path / "in"))
    recipe = make_recipe(source, tmp_path / "out", *RULES)
    stop_before(monkeypatch, recipe, "place", NAMES[2])
    for path in source.glob("*.safetensors"):
        path.chmod(0o640)
    run_job(recipe, INLINE)
    assert files(tmp_path / "out") == wanted
    (source / NAMES[0]).chmod(0o600)
    assert run_job(recipe, INLINE).was_completed


def test_one_ball_for_shards_of_two_versions_of_the_input_is_refused(
    tmp_path: Path, make_recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    for index, name in enumerate(NAMES):
        y = np.random.default_rng(index).standard_normal((600, 100)).astype(np.float32)
        save_file({f"{index}.g": y}, tmp_path / "in" / name)
    recipe = make_recipe(tmp_path / "in", tmp_path / "out", RULES[1])
    stop_before(monkeypatch, recipe, "place", NAMES[2])
    (tmp_path / "out" / f".{NAMES[2]}.partial").unlink()
    data = bytearray((tmp_path / "in" / NAMES[2]).read_bytes())
    begins = 8 + int.from_bytes(data[:8], "little")
    data[begins + 2000 : begins + 2004] = np.float32(1e3).tobytes()  # between two of the samples
    rewritten(tmp_path / "in" / NAMES[2], bytes(data))
    with pytest.raises(JobConflict, match=r"rules\[0\] found another ball; remove .*out\.normtree and the output"):
        run_job(recipe, INLINE)
