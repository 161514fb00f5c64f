"""Which files of a folder are its weights: indexes, variants, sets without one, copies, and what is none at all."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from normtree.errors import InvalidCheckpoint, InvalidRecipe
from normtree.files.tensor_file import read_file
from normtree.jobs.checkpoint.checkpoint import Checkpoint, read_checkpoint
from normtree.jobs.open_places import open_source
from normtree.jobs.run import JobOptions, plan_job, run_job
from normtree.jobs.storage import listing

INLINE = JobOptions(workers=1, memory_bytes=2**26, engine="inline")
RULE = "tensors = '.*weight'\nsparsity = 0.5"
Y = np.random.default_rng(0).standard_normal((8, 4), np.float32)


def write_set(folder: Path, form: str, count: int, index: str | None, skip: int = 0) -> None:
    """Write a set of shards and, where it has a name, its index."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [form.format(f"-{number:05}-of-{count:05}") for number in range(1, count + 1)]
    for number, name in enumerate(names, 1):
        if number != skip:
            save_file({f"l{number}.weight": Y * number}, folder / name)
    if index:
        weights = {f"l{number}.weight": name for number, name in enumerate(names, 1)}
        (folder / index).write_text(json.dumps({"weight_map": weights}))


def read(folder: Path) -> Checkpoint:
    return read_checkpoint(*open_source(str(folder)))


def names(checkpoint: Checkpoint) -> list[str]:
    return [shard.name for shard in checkpoint.shards]


@pytest.mark.parametrize("variant", ["fp16", "bf16", "ema"])
@pytest.mark.parametrize(
    ("form", "index"),
    [
        ("model.{v}{n}.safetensors", "model.safetensors.index.{v}.json"),
        ("diffusion_pytorch_model.{v}{n}.safetensors", "diffusion_pytorch_model.safetensors.{v}.index.json"),
        ("model{n}.{v}.safetensors", "model.safetensors.index.{v}.json"),
    ],
)
def test_a_variant_in_shards_is_projected(
    tmp_path: Path, make_recipe: Any, loaded: Any, variant: str, form: str, index: str
) -> None:
    write_set(tmp_path / "in", form.format(v=variant, n="{}"), 2, index.format(v=variant))
    outcome = run_job(make_recipe(tmp_path / "in", tmp_path / "out", RULE), INLINE)
    assert outcome.plan.notes == []
    assert all((loaded(tmp_path / "out")[f"l{i}.weight"] == 0).all(axis=1).sum() == 4 for i in (1, 2))
    assert (tmp_path / "out" / index.format(v=variant)).exists()


def test_a_variant_beside_the_main_weights_is_a_second_copy(tmp_path: Path) -> None:
    write_set(tmp_path, "model{}.safetensors", 3, "model.safetensors.index.json")
    write_set(tmp_path, "model.fp16{}.safetensors", 2, "model.safetensors.index.fp16.json")
    found = read(tmp_path)
    assert len(found.shards) == 5
    (note,) = found.notes({})
    assert note.startswith(
        "2 tensors are in several files, such as 'l1.weight' in model-00001-of-00003.safetensors and "
    )


@pytest.mark.parametrize("index", ["model.safetensors.index.json", "model.safetensors.index.fp16.json"])
def test_a_shard_that_an_index_lists_and_is_missing_is_told(tmp_path: Path, index: str) -> None:
    write_set(tmp_path, "model{}.safetensors", 3, index, skip=2)
    with pytest.raises(
        InvalidCheckpoint, match=r"'l2.weight' is in model-00002-of-00003.safetensors, which is missing"
    ):
        read(tmp_path)


def test_an_index_of_a_variant_that_was_not_fetched_is_told_and_in_nobodys_way(tmp_path: Path) -> None:
    save_file({"l1.weight": Y}, tmp_path / "model.safetensors")
    missing = {"weight_map": {"l1.weight": "model.fp16-00001-of-00001.safetensors"}}
    (tmp_path / "model.safetensors.index.fp16.json").write_text(json.dumps(missing))
    assert read(tmp_path).notes({}) == [
        "model.safetensors.index.fp16.json tells of files that are not here, and other weights are"
    ]
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(missing))
    with pytest.raises(InvalidCheckpoint, match="which is missing"):
        read(tmp_path)


def test_a_stale_shard_is_left_as_it_is(tmp_path: Path, make_recipe: Any) -> None:
    write_set(tmp_path / "in", "model{}.safetensors", 2, "model.safetensors.index.json")
    (tmp_path / "in" / "model-00001-of-00005.safetensors").write_bytes(b"half of a download")
    outcome = run_job(make_recipe(tmp_path / "in", tmp_path / "out", RULE), INLINE)
    assert len(outcome.facts) == 2
    note = "model-00001-of-00005.safetensors is in no index, though others are: it is left as it is"
    assert outcome.plan.notes == [note]
    assert f"note: {note}" in str(outcome.plan)
    report = json.loads((tmp_path / "out.normtree" / "report.json").read_text())
    assert report["notes"] == [note]
    assert note in (tmp_path / "out.normtree" / "report.html").read_text()
    assert (tmp_path / "out" / "model-00001-of-00005.safetensors").read_bytes() == b"half of a download"


def test_a_whole_set_needs_no_index_and_half_of_one_is_told(tmp_path: Path) -> None:
    write_set(tmp_path, "model{}.safetensors", 3, None)
    found = read(tmp_path)
    assert len(found.shards) == 3
    assert found.notes({}) == ["model-*-of-00003.safetensors have no index: some programs do not load them"]
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(InvalidCheckpoint, match="of a set of 3 without an index, and number 2 is missing"):
        read(tmp_path)
    save_file({"a": Y}, tmp_path / "x-00001-of-999999999.safetensors")
    with pytest.raises(InvalidCheckpoint, match="is missing"):
        read(tmp_path)


def test_a_consolidated_copy_is_told(tmp_path: Path) -> None:
    write_set(tmp_path, "model{}.safetensors", 2, "model.safetensors.index.json")
    save_file({"layers.1.wq.weight": Y}, tmp_path / "consolidated.safetensors")
    found = read(tmp_path)
    assert len(found.shards) == 3
    assert found.notes({}) == [
        "consolidated.safetensors is in no index: its tensors are taken too, and may be the same weights again"
    ]


@pytest.mark.parametrize("file", ["../secret.safetensors", "/etc/secret.safetensors", "a/../../secret.safetensors"])
def test_an_index_that_leads_outside_is_told(tmp_path: Path, file: str) -> None:
    save_file({"w": Y}, tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": file}}))
    with pytest.raises(InvalidCheckpoint, match=rf"tensor 'w' is in '{file}', which is outside the folder"):
        read(tmp_path)


def test_a_folder_without_weights_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InvalidCheckpoint, match=r"no \.safetensors file in it"):
        read(tmp_path)


def test_a_tensor_that_an_index_has_and_its_file_has_not_is_told(tmp_path: Path) -> None:
    save_file({"a.weight": Y}, tmp_path / "model.safetensors")
    weights = {"a.weight": "model.safetensors", "b.weight": "model.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    with pytest.raises(InvalidCheckpoint, match=r"index\.json: tensor 'b\.weight' is not in model\.safetensors"):
        read(tmp_path)


def test_a_folder_of_too_many_files_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MOST_FILES", 2)
    for number in range(3):
        (tmp_path / f"{number}.txt").touch()
    with pytest.raises(InvalidCheckpoint, match="wanted at most 2 files, got more"):
        read(tmp_path)


def test_an_index_may_name_files_by_a_way_around(tmp_path: Path) -> None:
    write_set(tmp_path / "unet", "model{}.safetensors", 1, None)
    there = {"weight_map": {"l1.weight": "../unet/./model-00001-of-00001.safetensors"}}
    (tmp_path / "unet" / "model.safetensors.index.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(there).encode())
    found = read(tmp_path)
    assert (names(found), found.notes({})) == (["unet/model-00001-of-00001.safetensors"], [])


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": 3}', '{"weight_map": {"a": 3}}', "[" * 99_999])
def test_an_index_that_is_none_is_told(tmp_path: Path, text: str) -> None:
    save_file({"w": Y}, tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(InvalidCheckpoint, match=r"model.safetensors.index.json: (no index|weight_map)"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "git lfs pull"),
        (b"<!doctype html><title>404</title>", "a page of a website"),
        (b"\n <html>", "a page of a website"),
        (b"PK\x03\x04" + bytes(99), "a PyTorch file or another archive"),
        (b"\x80\x02}q\x00(X\x01\x00", "a pickle"),
    ],
)
def test_what_lies_in_the_place_of_weights_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(InvalidCheckpoint, match=rf"model.safetensors: .*{message}"):
        read(tmp_path)
    with pytest.raises(ValueError, match=rf"model.safetensors: .*{message}"):
        read_file(tmp_path / "model.safetensors")


@pytest.mark.parametrize("at", ["", "models--a--b"])
def test_a_hubs_cache_is_named(tmp_path: Path, at: str) -> None:
    cache = tmp_path / at
    for part in ("blobs", "refs", "snapshots/0123abc"):
        (cache / part).mkdir(parents=True)
    (cache / "refs" / "main").write_text("0123abc")
    save_file({"w": Y}, cache / "blobs" / "f00d")
    (cache / "snapshots" / "0123abc" / "model.safetensors").symlink_to("../../blobs/f00d")
    with pytest.raises(InvalidCheckpoint, match=rf"one of its snapshots, such as {at}/?snapshots/0123abc"):
        read(tmp_path)
    assert names(read(cache / "snapshots" / "0123abc")) == ["model.safetensors"]


def write_tied(folder: Path, head: Any, **config: object) -> None:
    folder.mkdir()
    tensors = {"model.embed_tokens.weight": Y, "lm_head.weight": head, "model.up.weight": 2 * Y}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("config", [{"tie_word_embeddings": True}, {"text_config": {"tie_word_embeddings": True}}])
@pytest.mark.parametrize(
    ("pattern", "noted"), [("lm_head.*", 1), (".*(embed_tokens|up).*", 1), (".*up.*", 0), (".*", 0)]
)
def test_tied_weights_of_which_one_is_projected_are_told(
    tmp_path: Path, make_recipe: Any, config: Any, pattern: str, noted: int
) -> None:
    write_tied(tmp_path / "in", Y, **config)
    rule = f"tensors = '{pattern}'\nsparsity = 0.5"
    notes = plan_job(make_recipe(tmp_path / "in", tmp_path / "out", rule), INLINE).notes
    assert len(notes) == noted
    assert all("'model.embed_tokens.weight'" in note and "are tied by config.json" in note for note in notes)


def test_tied_weights_are_known_by_words_and_under_two_rules(tmp_path: Path, make_recipe: Any) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    save_file({"shared.weight": Y, "encoder.emb.weight": Y, "other.weight": Y[:4]}, folder / "model.safetensors")
    (folder / "config.json").write_text('{"tie_word_embeddings": true, "vocab_size": 8}')
    rules = ["tensors = 'shared.*'\nsparsity = 0.5", "tensors = 'encoder.*'\nsparsity = 0.25"]
    (note,) = plan_job(make_recipe(folder, tmp_path / "out", *rules), INLINE).notes
    assert note.startswith("'encoder.emb.weight' (rules[1]) and 'shared.weight' (rules[0]) hold the same weights")


@pytest.mark.parametrize("config", [{"tie_word_embeddings": False}, {}, {"tie_word_embeddings": "yes"}])
def test_weights_that_are_not_tied_are_no_matter(tmp_path: Path, make_recipe: Any, config: Any) -> None:
    write_tied(tmp_path / "in", Y, **config)
    write_tied(tmp_path / "other", Y + 1, tie_word_embeddings=True)
    for folder in ("in", "other"):
        recipe = make_recipe(tmp_path / folder, tmp_path / "out", "tensors = 'lm_head.*'\nsparsity = 0.5")
        assert plan_job(recipe, INLINE).notes == []


def test_what_the_norm_does_not_fit_is_left_and_counted(tmp_path: Path, make_recipe: Any, loaded: Any) -> None:
    (tmp_path / "in").mkdir()
    tensors = {"a.weight": Y, "norm.weight": Y[0], "ids.weight": np.arange(6).reshape(2, 3), "head.weight": 3 * Y}
    save_file(tensors, tmp_path / "in" / "model.safetensors")
    rule = "tensors = '.*weight'\nexclude = 'head.*'\nsparsity = 0.5"
    outcome = run_job(make_recipe(tmp_path / "in", tmp_path / "out", rule), INLINE)
    found = loaded(tmp_path / "out")
    assert [name for name in tensors if not np.array_equal(found[name], tensors[name])] == ["a.weight"]
    note = "rules[0] means 2 tensors more that l1,linf does not fit: they are left as they are"
    assert outcome.plan.notes == [note]
    assert f"note: {note}" in str(outcome.plan)
    both = ["tensors = '.*weight'\nradius = 1", "tensors = 'norm.*'\nnorm = 'l1'\nradius = 1"]
    plan = plan_job(make_recipe(tmp_path / "in", tmp_path / "other", *both), INLINE)
    assert {work.name: work.rule for work in plan.works} == {"a.weight": 0, "head.weight": 0, "norm.weight": 1}
    nothing = make_recipe(tmp_path / "in", tmp_path / "other", "tensors = 'a.*'\nexclude = '.*'\nradius = 1")
    with pytest.raises(InvalidRecipe, match=r"'a\.\*' matches none of the 4 tensors"):
        plan_job(nothing, INLINE)
