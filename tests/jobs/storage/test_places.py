"""Where a job reads and writes: resolved before anything is opened, apart from each other, and through no link then."""

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from normtree.errors import InvalidCheckpoint, InvalidRecipe, JobConflict, NormtreeError, StorageFailed
from normtree.jobs.board import roots
from normtree.jobs.open_places import open_places, open_state
from normtree.jobs.recipe import read_recipe
from normtree.jobs.run import JobOptions, plan_job, run_job
from normtree.jobs.storage.state import LocalState

INLINE = JobOptions(workers=2, engine="inline")
RULE = "tensors = '.*'\nsparsity = 0.5"


def write_shard(path: Path, name: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)}, path)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with one small shard and one other file."""
    write_shard(tmp_path / "model" / "m.safetensors")
    (tmp_path / "model" / "config.json").write_text("{}")
    return tmp_path / "model"


def refused(recipe: Any, kind: type[NormtreeError] = InvalidRecipe) -> str:
    """Have a recipe refused, by the plan and by the job, with nothing made; return why."""
    told = []
    for way in (plan_job, run_job):
        with pytest.raises(kind) as caught:
            way(recipe, INLINE)
        told.append(str(caught.value))
    assert told[0] == told[1]
    return told[0]


# --- output and input are apart -----------------------------------------------------------------------------------

OVERLAPS: dict[str, tuple[str, str]] = {
    "the same": ("model", "model"),
    "the same, with a dot": ("model", "./model"),
    "the same, with a slash": ("model", "model/"),
    "the same, through a folder that is there": ("model", "model/../model"),
    "the same, through one that is not": ("model", "tmp/../model"),
    "the same, through a link": ("model", "link"),
    "the same, of another kind": ("model", "file://{folder}/model"),
    "inside": ("model", "model/sub"),
    "deep inside, through a link": ("model", "link/a/b/c"),
    "inside, as the working folder": (".", "sparse"),
    "around": ("model/part", "model"),
    "around a linked part": ("parts", "linked"),
    "inside a linked part": ("parts", "linked/out"),
    "the state": ("out.normtree", "out"),
    "in the state": ("out.normtree/in", "out"),
    "the file itself": ("model/m.safetensors", "link/m.safetensors"),
    "the file's folder": ("model/m.safetensors", "model"),
    "the file that a link leads to": ("alias.safetensors", "model/m.safetensors"),
}


@pytest.mark.parametrize("case", OVERLAPS)
def test_an_output_that_overlaps_the_input_is_refused_and_nothing_touched(
    model: Path, tmp_path: Path, files: Any, monkeypatch: pytest.MonkeyPatch, case: str, make_recipe: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    write_shard(model / "part" / "p.safetensors")
    write_shard(tmp_path / "out.normtree" / "in" / "p.safetensors")
    write_shard(tmp_path / "linked" / "l.safetensors")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "part").symlink_to("../linked")
    (tmp_path / "link").symlink_to("model")
    (tmp_path / "alias.safetensors").symlink_to("model/m.safetensors")
    before = files(tmp_path)
    source, target = OVERLAPS[case]
    text = f"input = '{source}'\noutput = '{target.format(folder=tmp_path)}'\n[[rules]]\n{RULE}"
    (tmp_path / "recipe.toml").write_text(text)
    try:
        told = refused(read_recipe(tmp_path / "recipe.toml"))
    except InvalidRecipe as error:  # the same text twice is a mistake of the recipe
        told = str(error)
    assert "wanted a place apart from the input" in told or "wanted another place than the input" in told
    assert files(tmp_path) == before | {"recipe.toml": text.encode()}
    assert not (tmp_path / "tmp").exists()


def test_a_full_folder_is_not_written_to_through_one_that_is_not_there(
    model: Path, tmp_path: Path, make_recipe: Any, files: Any
) -> None:
    write_shard(tmp_path / "other" / "m.safetensors")
    before = files(tmp_path)
    with pytest.raises(JobConflict, match=r"m\.safetensors is there already"):
        run_job(make_recipe(model, f"{tmp_path}/runs/../other", RULE), INLINE)
    assert files(tmp_path) == before
    assert not (tmp_path / "runs").exists()


def test_an_output_through_a_folder_that_is_not_there_comes_to_where_it_leads(
    model: Path, tmp_path: Path, make_recipe: Any
) -> None:
    run_job(make_recipe(model, f"{tmp_path}/runs/../out", RULE), INLINE)
    assert (tmp_path / "out" / "m.safetensors").is_file()
    assert (tmp_path / "out.normtree").is_dir()
    assert not (tmp_path / "runs").exists()


def test_an_output_that_is_a_link_to_a_folder_comes_into_that_folder(
    model: Path, tmp_path: Path, make_recipe: Any
) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to("disk")
    outcome = run_job(make_recipe(model, tmp_path / "out", RULE), INLINE)
    assert (tmp_path / "disk" / "m.safetensors").is_file()
    assert outcome.state_url == f"{tmp_path}/disk.normtree"
    assert run_job(make_recipe(model, tmp_path / "disk", RULE), INLINE).was_completed


def test_a_bind_mount_or_a_hard_link_of_the_input_is_the_input(model: Path, tmp_path: Path, make_recipe: Any) -> None:
    os.link(model / "m.safetensors", tmp_path / "same.safetensors")
    before = (model / "m.safetensors").read_bytes()
    refused(make_recipe(model / "m.safetensors", tmp_path / "same.safetensors", RULE))
    assert (model / "m.safetensors").read_bytes() == before


# --- what is linked and what is special ---------------------------------------------------------------------------


def test_linked_folders_and_files_are_followed_and_become_real_ones(
    model: Path, tmp_path: Path, make_recipe: Any, loaded: Any
) -> None:
    write_shard(tmp_path / "te" / "m.safetensors", "t")
    (tmp_path / "te" / "tokenizer").mkdir()
    (tmp_path / "te" / "tokenizer" / "vocab.txt").write_text("words")
    (tmp_path / "blobs").mkdir()
    (model / "config.json").rename(tmp_path / "blobs" / "3f2a")
    (model / "config.json").symlink_to("../blobs/3f2a")
    (model / "text_encoder").symlink_to("../te")
    (tmp_path / "hub").symlink_to("model")
    outcome = run_job(make_recipe(tmp_path / "hub", tmp_path / "out", RULE), INLINE)
    assert [facts.shard for facts in outcome.facts] == ["m.safetensors", "text_encoder/m.safetensors"]
    out = tmp_path / "out"
    assert (loaded(out / "text_encoder")["t"] == 0).all(axis=1).sum() == 4
    assert (out / "text_encoder" / "tokenizer" / "vocab.txt").read_text() == "words"
    assert (out / "config.json").read_text() == "{}"
    assert not [path for path in out.rglob("*") if path.is_symlink()]


def test_a_linked_file_is_an_input_by_its_own_name(model: Path, tmp_path: Path, make_recipe: Any) -> None:
    (model / "m.safetensors").rename(tmp_path / "3f2a")
    (model / "m.safetensors").symlink_to("../3f2a")
    run_job(make_recipe(model / "m.safetensors", tmp_path / "out.safetensors", RULE), INLINE)
    assert (tmp_path / "out.safetensors").stat().st_size == (tmp_path / "3f2a").stat().st_size


@pytest.mark.parametrize("where", ["itself", "above", "beside"])
def test_links_in_a_circle_are_found(model: Path, tmp_path: Path, make_recipe: Any, where: str) -> None:
    (model / "a").mkdir()
    if where == "beside":
        (tmp_path / "one").mkdir()
        (tmp_path / "two").mkdir()
        (model / "a" / "loop").symlink_to(tmp_path / "one")
        (tmp_path / "one" / "two").symlink_to(tmp_path / "two")
        (tmp_path / "two" / "one").symlink_to(tmp_path / "one")
    else:
        (model / "a" / "loop").symlink_to("." if where == "itself" else "..")
    told = refused(make_recipe(model, tmp_path / "out", RULE), InvalidCheckpoint)
    assert "loop" in told
    assert "which it lies in itself" in told
    assert not (tmp_path / "out").exists()


def test_folders_in_folders_without_end_are_refused(model: Path, tmp_path: Path, make_recipe: Any) -> None:
    deep = model.joinpath(*["d"] * 150)
    deep.mkdir(parents=True)
    told = refused(make_recipe(model, tmp_path / "out", RULE), InvalidCheckpoint)
    assert "wanted at most 100 folders in each other" in told


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


SPECIAL: dict[str, Callable[[Path], object]] = {
    "a FIFO": os.mkfifo,
    "a socket": bind,
    "a character device": lambda path: path.symlink_to("/dev/zero"),
    "a link to": lambda path: path.symlink_to("nowhere"),
    "Too many levels of symbolic links": lambda path: path.symlink_to(path.name),
}


@pytest.mark.parametrize("name", ["pipe", "pipe.safetensors", "sub/pipe"])
@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_neither_file_nor_folder_is_named_and_not_opened(
    model: Path, tmp_path: Path, make_recipe: Any, kind: str, name: str
) -> None:
    (model / "sub").mkdir()
    SPECIAL[kind](model / name)
    told = refused(make_recipe(model, tmp_path / "out", RULE), InvalidCheckpoint)
    assert told.startswith(f"{model / name}: ")
    assert kind in told
    assert not (tmp_path / "out.normtree").exists()


def test_a_fifo_that_is_the_input_itself_is_named(tmp_path: Path, make_recipe: Any) -> None:
    os.mkfifo(tmp_path / "m.safetensors")
    told = refused(make_recipe(tmp_path / "m.safetensors", tmp_path / "out.safetensors", RULE), InvalidCheckpoint)
    assert "wanted a file or a folder, got a FIFO" in told


def test_a_name_that_is_no_utf8_is_refused_before_any_work(model: Path, tmp_path: Path, make_recipe: Any) -> None:
    for name in (b"caf\xe9.safetensors", b"caf\xe9.txt"):
        path = os.fsencode(model) + b"/" + name
        os.link(model / "m.safetensors", path)
        told = refused(make_recipe(model, tmp_path / "out", RULE), InvalidCheckpoint)
        assert told.isascii()
        assert "caf\\udce9" in told
        assert "is no UTF-8" in told
        os.unlink(path)
    assert not (tmp_path / "out.normtree").exists()


# --- places that are none -----------------------------------------------------------------------------------------

NOT_PLACES = ["a\0b", "a\ud800b", "caf\udce9", "loop", "loop/x", "file/x", "n" * 300, "n" * 250, "/".join("d" * 3000)]


@pytest.mark.parametrize("place", NOT_PLACES)
def test_an_output_that_is_no_path_is_refused_with_its_key(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, make_recipe: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    recipe = make_recipe(model, "out", RULE).model_copy(update={"output": place})
    with pytest.raises(InvalidRecipe) as caught:
        run_job(recipe, INLINE)
    assert caught.value.pointer == "output"
    assert str(caught.value).startswith("output: ")
    str(caught.value).encode()
    if len(place) != 250 and "d/d" not in place:  # too long with what lies beside it; too long when it is made
        with pytest.raises(InvalidRecipe) as caught:
            run_job(recipe.model_copy(update={"input": place, "output": str(tmp_path / "out")}), INLINE)
        assert caught.value.pointer == "input"
    assert sorted(os.listdir(tmp_path)) == ["file", "loop", "model"]


def test_a_state_that_is_a_link_is_refused(model: Path, tmp_path: Path, make_recipe: Any) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out.normtree").symlink_to("elsewhere")
    assert "out.normtree beside it is a link" in refused_by_run(make_recipe(model, tmp_path / "out", RULE))
    assert not list((tmp_path / "elsewhere").iterdir())


def refused_by_run(recipe: Any, kind: type[NormtreeError] = InvalidRecipe) -> str:
    with pytest.raises(kind) as caught:
        run_job(recipe, INLINE)
    return str(caught.value)


def test_a_state_is_not_reached_by_dots(tmp_path: Path) -> None:
    (tmp_path / "roots").mkdir()
    (tmp_path / "out.normtree").mkdir()
    (tmp_path / "out.normtree" / "report.json").write_text("{}")
    assert open_state(f"{tmp_path}/out").read("report.json") == b"{}"
    with pytest.raises(StorageFailed, match="wanted a name below an absolute folder"):
        open_state(f"{tmp_path}/roots/../out").read("report.json")


def test_what_is_in_an_outputs_place_counts_whatever_it_is(model: Path, tmp_path: Path, make_recipe: Any) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "deep").symlink_to("/elsewhere")
    assert "deep is there already" in refused_by_run(make_recipe(model, tmp_path / "out", RULE), JobConflict)
    (tmp_path / "one.safetensors").symlink_to("nowhere")
    recipe = make_recipe(model / "m.safetensors", tmp_path / "one.safetensors", RULE)
    assert "one.safetensors is there already" in refused_by_run(recipe, JobConflict)


# --- jobs that would be in each other's way -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("busy", "source", "target"),
    [
        ("out", "model", "out/deep"),
        ("out", "model/m.safetensors", "out/m.safetensors"),
        ("out/m.safetensors", "model", "out"),
        ("out/a/b", "model", "out"),
        ("model", "model", "out"),
        ("model/part", "model", "out"),
        (".", "model", "out"),
    ],
)
def test_jobs_on_parts_of_each_other_refuse_each_other(
    model: Path, tmp_path: Path, make_recipe: Any, busy: str, source: str, target: str
) -> None:
    (tmp_path / "link").symlink_to(".")
    recipe = make_recipe(tmp_path / "link" / source, tmp_path / target, RULE)
    with LocalState(f"{(tmp_path / busy).resolve()}.normtree").lock():
        before = sorted(tmp_path.rglob("*"))
        told = refused_by_run(recipe, JobConflict)
        assert sorted(tmp_path.rglob("*")) == before
        assert "another run is writing" in told or "normtree/lock is there already" in told


def test_two_jobs_may_read_one_input_and_write_beside_each_other(model: Path, tmp_path: Path, make_recipe: Any) -> None:
    run_job(make_recipe(model, tmp_path / "a", RULE), INLINE)
    first = make_recipe(tmp_path / "a", tmp_path / "b", RULE)
    second = make_recipe(tmp_path / "a", tmp_path / "c", RULE)
    with open_places(first).lock():
        assert run_job(second, INLINE).facts
        again = make_recipe(model, tmp_path / "a", RULE)
        assert "another run is writing this output, or reading it" in refused_by_run(again, JobConflict)


# --- before a job is taken -----------------------------------------------------------------------------------------


def test_a_service_looks_at_some_of_an_input_and_the_job_at_all(
    model: Path, tmp_path: Path, make_recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "roots").mkdir()
    model.rename(tmp_path / "roots" / "model")
    (tmp_path / "roots" / "model" / "z").symlink_to("/etc/passwd")
    recipe = make_recipe("model", "out", RULE)
    with pytest.raises(InvalidRecipe, match=r"model/z is a link that leads out of the service's folders"):
        roots.within(recipe, [tmp_path / "roots"])
    monkeypatch.setattr(roots, "_LOOKED_AT", 0)
    taken = roots.within(recipe, [tmp_path / "roots"])
    assert taken.input == str(tmp_path / "roots" / "model")
    assert taken.output == str(tmp_path / "roots" / "out")
    with pytest.raises(InvalidRecipe, match=r"model/z is a link that leads out of the service's folders"):
        run_job(taken, INLINE, roots=[tmp_path / "roots"])
    assert os.listdir(tmp_path / "roots") == ["model"]


def test_no_link_leads_to_the_services_own_notes(model: Path, tmp_path: Path, make_recipe: Any) -> None:
    (tmp_path / ".normtree-jobs").mkdir()
    (tmp_path / ".normtree-jobs" / "a.job").write_text("{}")
    (model / "notes").symlink_to("../.normtree-jobs")
    with pytest.raises(InvalidRecipe, match="model/notes is a link that leads out"):
        roots.within(make_recipe("model", "out", RULE), [tmp_path])


# --- permissions --------------------------------------------------------------------------------------------------


def modes(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): f"{stat.S_IMODE(path.stat().st_mode):o}" for path in folder.rglob("*")}


def test_permissions_are_those_of_the_input_and_no_wider(model: Path, tmp_path: Path, make_recipe: Any) -> None:
    (model / "private").mkdir(mode=0o700)
    (model / "private" / "key.txt").touch(0o600)
    (model / "run.sh").touch()
    (model / "run.sh").chmod(0o755)
    (model / "read.only").touch()
    (model / "read.only").chmod(0o444)
    (model / "m.safetensors").chmod(0o640)
    seen: set[str] = set()

    def watch(_: object) -> None:
        seen.update(f"{stat.S_IMODE(path.stat().st_mode):o}" for path in (tmp_path / "out").glob(".*.partial"))

    model.chmod(0o750)
    run_job(make_recipe(model, tmp_path / "out", RULE), INLINE, watch)
    assert modes(tmp_path / "out") == modes(model)
    assert seen == {"640"}
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o750
    assert stat.S_IMODE((tmp_path / "out.normtree").stat().st_mode) == 0o700  # not all may read all that it tells of


def test_a_umask_narrows_permissions(model: Path, tmp_path: Path, make_recipe: Any) -> None:
    (model / "m.safetensors").chmod(0o666)
    before = os.umask(0o027)
    try:
        run_job(make_recipe(model / "m.safetensors", tmp_path / "out.safetensors", RULE), INLINE)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out.safetensors").stat().st_mode) == 0o640


@pytest.mark.parametrize(("mode", "wanted"), [(0o600, 0o700), (0o640, 0o750), (0o644, 0o755)])
def test_the_state_of_private_files_is_private(
    model: Path, tmp_path: Path, make_recipe: Any, mode: int, wanted: int
) -> None:
    (model / "m.safetensors").chmod(mode)
    run_job(make_recipe(model / "m.safetensors", tmp_path / "new" / "out.safetensors", RULE), INLINE)
    run_job(make_recipe(model, tmp_path / "out", RULE), INLINE)
    for state in ("new/out.safetensors.normtree", "out.normtree"):
        assert stat.S_IMODE((tmp_path / state).stat().st_mode) == wanted


def test_a_missing_input_is_told(tmp_path: Path, make_recipe: Any) -> None:
    for name in ("none", "none.safetensors"):
        told = refused(make_recipe(tmp_path / name, tmp_path / f"out{Path(name).suffix}", RULE), StorageFailed)
        assert "No such file" in told or "no such folder" in told
