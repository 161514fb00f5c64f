"""Jobs on threads: every tensor has the bytes of its own projection, all others are kept, and the folder loads."""

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

import normtree_kernels as nk
from normtree.errors import InvalidCheckpoint, InvalidRecipe, InvalidTensor, JobConflict, StorageFailed, StorageFull
from normtree.formats.stored import read_stored
from normtree.jobs.plan import job_plan as job_plan
from normtree.jobs.report.outcome import JobOutcome
from normtree.jobs.run import JobOptions, plan_job, run_job

Array = NDArray[Any]
MIB = 1 << 20
INLINE = JobOptions(workers=2, engine="inline")

RULES = (
    "tensors = '.*(up|down)\\.weight'\nsparsity = 0.5",
    "tensors = '.*half\\.weight'\nnorm = 'l1,l2'\naxes = '1,0'\nrelative_radius = 0.2",
    "tensors = '.*wide\\.weight'\nnorm = 'l1,l1'\nradius = 5.5",
    "tensors = '.*conv\\.weight'\nnorm = 'l1,l2,linf'\naxes = '1,0,2.3'\ngroups = 5",
    "tensors = '.*bias'\nnorm = 'l1'\nsparsity = 0.25",
)


def wanted_of(name: str, y: Array) -> Array:
    """Project a tensor by the library alone, as `RULES` say."""
    if name.endswith(("up.weight", "down.weight")):
        return nk.project(y, "l1,linf", sparsity=0.5)
    if name.endswith("half.weight"):
        return nk.project(y, "l1,l2", 0.2 * nk.norm(y, "l1,l2", axes="1,0"), axes="1,0")
    if name.endswith("wide.weight"):
        return nk.project(y, "l1,l1", 5.5)
    if name.endswith("conv.weight"):
        return nk.project(y, "l1,l2,linf", axes="1,0,2.3", groups=5)
    return nk.project(y, "l1", sparsity=0.25) if name.endswith("bias") else y


def test_each_tensor_has_the_bytes_of_its_own_projection(
    checkpoint: Path, tmp_path: Path, make_recipe: Any, loaded: Any, files: Any
) -> None:
    before = files(checkpoint)
    outcome = run_job(make_recipe(checkpoint, tmp_path / "out", *RULES), INLINE)
    there = loaded(tmp_path / "out")
    for name, y in loaded(checkpoint).items():
        assert there[name].dtype == y.dtype
        assert there[name].tobytes() == wanted_of(name, y).tobytes(), name
    assert files(checkpoint) == before
    assert len(outcome.facts) == 18
    assert not outcome.resumed


def test_dtype_shape_order_metadata_index_and_other_files_are_kept(
    checkpoint: Path, tmp_path: Path, make_recipe: Any, files: Any
) -> None:
    run_job(make_recipe(checkpoint, tmp_path / "out", *RULES), INLINE)
    before, after = files(checkpoint), files(tmp_path / "out")
    assert before.keys() == after.keys()
    for name, data in before.items():
        head = 8 + int.from_bytes(data[:8], "little") if name.endswith(".safetensors") else len(data)
        assert after[name][:head] == data[:head]
        assert len(after[name]) == len(data)


@pytest.mark.parametrize("rules", [RULES, [*RULES[1:], RULES[0] + "\nscope = 'global'"]])
def test_neither_memory_nor_workers_nor_the_cut_change_a_byte(
    checkpoint: Path, tmp_path: Path, make_recipe: Any, files: Any, monkeypatch: pytest.MonkeyPatch, rules: Any
) -> None:
    run_job(make_recipe(checkpoint, tmp_path / "one", *rules), JobOptions(workers=1, engine="inline"))
    monkeypatch.setattr(job_plan, "LEAST_TASK_BYTES", 1 << 12)  # so that small tensors are split too
    recipe = make_recipe(checkpoint, tmp_path / "many", *rules)
    options = JobOptions(workers=3, memory_bytes=8 * MIB, engine="inline")
    assert plan_job(recipe, options).swept_up_bytes > 0
    outcome = run_job(recipe, options)
    assert files(tmp_path / "one") == files(tmp_path / "many")
    assert {"up", "down"} <= {stint["kind"] for stint in outcome.stints}


def facts_of(outcome: JobOutcome, ending: str) -> Any:
    return next(facts for facts in outcome.facts if facts.name.endswith(ending))


def test_the_facts_are_those_of_a_certificate(
    checkpoint: Path, tmp_path: Path, make_recipe: Any, loaded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_plan, "LEAST_TASK_BYTES", 1 << 12)
    outcome = run_job(make_recipe(checkpoint, tmp_path / "out", *RULES), INLINE)
    ys, xs = loaded(checkpoint), loaded(tmp_path / "out")
    assert len(outcome.facts) == 18
    for facts in outcome.facts:
        evidence = nk.certify(ys[facts.name], xs[facts.name], facts.norm, facts.radius, axes=facts.axes)
        assert evidence.feasible
        assert (facts.norm_before, facts.norm_after) == (evidence.norm_before, evidence.norm_after)
        assert facts.distance == pytest.approx(evidence.distance, rel=1e-12)
        assert facts.groups == evidence.groups
        assert facts.zero_groups == evidence.zero_groups
    up = facts_of(outcome, "up.weight")
    zero = np.flatnonzero((xs[up.name] == 0).all(axis=1))
    assert [
        i for part in up.zeros.split(",") for i in range(int(part.split("-")[0]), int(part.split("-")[-1]) + 1)
    ] == list(zero)
    norms = np.abs(ys[up.name]).max(axis=1)
    assert set(np.flatnonzero(norms <= up.threshold)) == set(zero)
    assert sum(up.histogram) == 300


def test_a_global_rule_reaches_its_share_over_all_groups_together(
    checkpoint: Path, tmp_path: Path, make_recipe: Any, loaded: Any
) -> None:
    rule = "tensors = '.*(up|wide)\\.weight'\nsparsity = 0.7\nscope = 'global'"
    outcome = run_job(make_recipe(checkpoint, tmp_path / "out", rule), INLINE)
    assert len({facts.radius for facts in outcome.facts}) == 1
    groups, zero = (sum(getattr(facts, name)[0] for facts in outcome.facts) for name in ("groups", "zero_groups"))
    assert groups == 3 * 340
    assert zero == 0.7 * groups
    together = np.concatenate(
        [np.abs(y).max(axis=1) for name, y in loaded(checkpoint).items() if "up" in name or "wide" in name]
    )
    x = np.concatenate(
        [np.abs(y).max(axis=1) for name, y in loaded(tmp_path / "out").items() if "up" in name or "wide" in name]
    )
    assert set(np.argsort(together)[: round(0.7 * groups)]) == set(np.flatnonzero(x == 0))


@pytest.mark.parametrize("goal", ["radius = 20.0", "relative_radius = 0.1", "groups = 100"])
def test_a_global_rule_takes_every_goal(checkpoint: Path, tmp_path: Path, make_recipe: Any, goal: str) -> None:
    rule = f"tensors = '.*up\\.weight'\n{goal}\nscope = 'global'"
    outcome = run_job(make_recipe(checkpoint, tmp_path / "out", rule), INLINE)
    before, after = (sum(getattr(facts, name) for facts in outcome.facts) for name in ("norm_before", "norm_after"))
    if goal.startswith("groups"):
        assert sum(facts.groups[0] - facts.zero_groups[0] for facts in outcome.facts) == 100
    else:
        assert after == pytest.approx(20.0 if goal.startswith("radius") else 0.1 * before, rel=1e-6)


def test_the_exact_projection_is_the_librarys(checkpoint: Path, tmp_path: Path, make_recipe: Any, loaded: Any) -> None:
    rule = "tensors = '.*(up|conv)\\.weight'\nradius = 9.0\nexact = true\nnorm='l1,linf'\n"
    run_job(make_recipe(checkpoint, tmp_path / "out", rule), INLINE)
    there = loaded(tmp_path / "out")
    for name, y in loaded(checkpoint).items():
        if name.endswith(("up.weight", "conv.weight")):
            assert there[name].tobytes() == nk.project(y, "l1,linf", 9.0, exact=True).tobytes()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_ranking_the_elements_of_a_tensor_takes_no_wider_copy_of_it(
    tmp_path: Path, make_recipe: Any, loaded: Any, dtype: str
) -> None:
    y = np.random.default_rng(0).standard_normal(2 * MIB // np.dtype(dtype).itemsize).astype(dtype)
    (tmp_path / "in").mkdir()
    save_file({"w": y}, tmp_path / "in" / "a.safetensors")
    recipe = make_recipe(tmp_path / "in", tmp_path / "out", "tensors = 'w'\nnorm = 'l1'\nsparsity = 0.9")
    plan = plan_job(recipe, INLINE)
    assert not any(map(plan.is_split, plan.works))
    run_job(recipe, INLINE)  # loads what it needs
    again = make_recipe(tmp_path / "in", tmp_path / "again", "tensors = 'w'\nnorm = 'l1'\nsparsity = 0.9")
    tracemalloc.start()
    run_job(again, INLINE)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2 * y.nbytes + 4 * MIB  # what is read and what is written, and counts of digits
    assert loaded(tmp_path / "again")["w"].tobytes() == nk.project(y, "l1", sparsity=0.9).tobytes()


def test_inside_the_ball_a_checkpoint_is_kept_bit_for_bit(
    checkpoint: Path, tmp_path: Path, make_recipe: Any, files: Any
) -> None:
    outcome = run_job(make_recipe(checkpoint, tmp_path / "out", "tensors = '.*weight'\nsparsity = 0.0"), INLINE)
    assert files(tmp_path / "out") == files(checkpoint)
    assert all(facts.distance == 0.0 for facts in outcome.facts)


def test_a_single_file_becomes_a_single_file(tmp_path: Path, make_recipe: Any) -> None:
    y = np.random.default_rng(0).standard_normal((30, 20)).astype(np.float32)
    save_file({"w": y}, tmp_path / "a.safetensors")
    run_job(make_recipe(tmp_path / "a.safetensors", tmp_path / "b.safetensors", "tensors = 'w'\ngroups = 3"), INLINE)
    assert (tmp_path / "b.safetensors").read_bytes()[-y.nbytes :] == nk.project(y, "l1,linf", groups=3).tobytes()
    assert (tmp_path / "b.safetensors.normtree").is_dir()


# --- what cannot be done is told before anything is ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (["tensors = 'nothing'\nradius = 1"], "rules[0].tensors: 'nothing' matches none of the 24 tensors"),
        (
            ["tensors = '.*weight'\nradius = 1", "tensors = '.*up.*'\nradius = 1"],
            "'layers.0.up.weight' is claimed by rules[0] and rules[1]",
        ),
        (["tensors = '.*ids'\nnorm = 'l1'\nradius = 1"], "wanted an element type of F64, F32, F16, BF16, got I64"),
        (["tensors = '.*bias'\nradius = 1"], "'layers.0.bias', claimed by rules[0]: norm: 'l1,linf' has 2 levels"),
        (["tensors = '.*up.weight'\naxes = '0,2'\nradius = 1"], "axes: axis 2 is out of range"),
        (["tensors = '.*up.weight'\ngroups = 301"], "claimed by rules[0]: groups: wanted 0 to 300"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused_and_nothing_written(
    checkpoint: Path, tmp_path: Path, make_recipe: Any, rules: list[str], message: str
) -> None:
    with pytest.raises(InvalidRecipe) as caught:
        run_job(make_recipe(checkpoint, tmp_path / "out", *rules), INLINE)
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == [checkpoint]


def test_the_first_of_two_rules_wins_where_that_is_asked(checkpoint: Path, tmp_path: Path, make_recipe: Any) -> None:
    rules = ["tensors = '.*up.weight'\nsparsity = 0.9", "tensors = '.*weight'\nsparsity = 0.1"]
    plan = plan_job(make_recipe(checkpoint, tmp_path / "out", *rules, head="overlap = 'first'"), INLINE)
    assert {work.rule for work in plan.works if work.name.endswith("up.weight")} == {0}
    assert {work.rule for work in plan.works if not work.name.endswith("up.weight")} == {1}


def test_a_bound_on_memory_that_is_too_small_is_told(checkpoint: Path, tmp_path: Path, make_recipe: Any) -> None:
    recipe = make_recipe(checkpoint, tmp_path / "out", "tensors = '.*up.weight'\nradius = 1")
    with pytest.raises(InvalidRecipe, match=r"layers\.0\.up\.weight: .* takes .* MiB of memory; got"):
        run_job(recipe, JobOptions(workers=2, memory_bytes=4096, engine="inline"))


def shard_of(folder: Path) -> Path:
    return next(folder.glob("*00002-of*.safetensors"))


def index_of(folder: Path) -> Path:
    return folder / "model.safetensors.index.json"


def truncate(folder: Path) -> None:
    data = shard_of(folder).read_bytes()
    shard_of(folder).write_bytes(data[:-100])


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (truncate, "model-00002-of-00003.safetensors: truncated: its tensors end at byte"),
        (lambda folder: shard_of(folder).write_bytes(b"1234"), "wanted a safetensors file, got 4 bytes"),
        (lambda folder: shard_of(folder).write_bytes(b"\xff" * 8 + b"{}"), "no safetensors file, or truncated"),
        (lambda folder: shard_of(folder).unlink(), "weight' is in model-00002-of-00003.safetensors, which is missing"),
        (
            lambda folder: [index_of(folder).unlink(), shard_of(folder).unlink()],
            "of a set of 3 without an index, and number 2 is missing",
        ),
        (lambda folder: index_of(folder).write_text("[]"), "index.json: no index"),
    ],
)
def test_a_broken_checkpoint_is_told_and_nothing_written(
    checkpoint: Path, tmp_path: Path, make_recipe: Any, break_it: Callable[[Path], object], message: str
) -> None:
    break_it(checkpoint)
    with pytest.raises(InvalidCheckpoint) as caught:
        run_job(make_recipe(checkpoint, tmp_path / "out", "tensors = '.*weight'\nradius = 1"), INLINE)
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == [checkpoint]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"[]", "it must be an object"),
        (b'{"a":1}', "dtype, shape and data_offsets are wanted"),
        (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{}}', "a key is given twice"),
        (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}', "8 bytes are wanted by its shape, got 4"),
        (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}', "the first must begin at 0, got 4"),
        (b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', "must be a list of integers >= 0"),
        (b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}', "8 bytes too many after its tensors"),
        (b'{"__metadata__":{"a":1}}', "__metadata__ must be an object of texts"),
        (b'{"a":{"dtype":["F32"],"shape":[1],"data_offsets":[0,4]}}', "its dtype must be a text"),
        (b'{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}}', "its F4 elements do not fill whole bytes"),
        (b'{"a":{"dtype":"F8_E8M0","shape":[4],"data_offsets":[0,8]}}', "4 bytes are wanted by its shape, got 8"),
        (
            b'{"a":{"dtype":"U8","shape":%s,"data_offsets":[0,8]}}' % str([2**62] * 9999).encode(),
            "at most 4611686018427387904 elements are accepted",
        ),
        (b'{"\\ud800":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}', "half of a surrogate pair"),
        (b'{"a":%s}' % (b"9" * 9999), "too many digits"),
        (b"{", "safetensors header: it is not JSON at character 1"),
    ],
)
def test_a_header_is_not_believed_unchecked(header: bytes, message: str) -> None:
    with pytest.raises(InvalidCheckpoint, match="x: ") as caught:
        read_stored(bytes(8) + header, 8 + len(header) + 8, "x")
    assert message in str(caught.value)


def test_a_missing_input_is_told(tmp_path: Path, make_recipe: Any) -> None:
    with pytest.raises(StorageFailed, match="no such folder"):
        run_job(make_recipe(tmp_path / "none", tmp_path / "out", "tensors = '.*'\nradius = 1"), INLINE)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_element_that_is_not_finite_is_named(tmp_path: Path, make_recipe: Any, bad: float) -> None:
    y = np.zeros((30, 20), np.float32)
    y[7, 3] = bad
    (tmp_path / "in").mkdir()
    save_file({"w": y}, tmp_path / "in" / "a.safetensors")
    with pytest.raises(InvalidTensor, match=rf"^a.safetensors: w: element \[7, 3\] is {bad}") as caught:
        run_job(make_recipe(tmp_path / "in", tmp_path / "out", "tensors = 'w'\nradius = 1"), INLINE)
    assert (caught.value.limit, str(caught.value.got)) == ("finite elements", str(bad))
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("norm", "goal", "message"),
    [
        ("l1,linf", "radius = 1", r"its norm \(l1,linf over axes 0,1\) overflows float64; scale the tensor down"),
        ("l1,l1", "radius = 1", "a fibre's norm overflows float64 in rows 0 to 2; scale the tensor down"),
        ("l1", "sparsity = 0.5", "a fibre's norm overflows float64"),
    ],
)
def test_a_norm_that_overflows_is_told(tmp_path: Path, make_recipe: Any, norm: str, goal: str, message: str) -> None:
    (tmp_path / "in").mkdir()
    save_file({"w": np.full((3, 2), 1e308)}, tmp_path / "in" / "a.safetensors")
    rule = f"tensors = 'w'\nnorm = '{norm}'\n{goal}"
    with pytest.raises(InvalidTensor, match=f"^a.safetensors: w: {message}") as caught:
        run_job(make_recipe(tmp_path / "in", tmp_path / "out", rule), INLINE)
    assert (caught.value.limit, caught.value.got) == ("a finite norm", np.inf)


def test_a_norm_of_tensors_together_that_overflows_is_told(tmp_path: Path, make_recipe: Any) -> None:
    (tmp_path / "in").mkdir()
    save_file({"a": np.full((1, 2), 1e308), "b": np.full((1, 2), 1e308)}, tmp_path / "in" / "a.safetensors")
    rule = "tensors = '.*'\nsparsity = 0.5\nscope = 'global'"
    with pytest.raises(InvalidTensor, match=r"the norm \(l1,linf\) of the rule's tensors together overflows") as caught:
        run_job(make_recipe(tmp_path / "in", tmp_path / "out", rule), INLINE)
    assert (caught.value.limit, caught.value.got) == ("a finite norm", np.inf)


def test_an_output_that_is_somebody_elses_is_not_touched(checkpoint: Path, tmp_path: Path, make_recipe: Any) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").write_text("mine")
    with pytest.raises(JobConflict, match=r"precious\.txt is there already"):
        run_job(make_recipe(checkpoint, tmp_path / "out", *RULES), INLINE)
    assert not (tmp_path / "out.normtree").exists()


def test_a_disk_without_room_is_told_first(
    checkpoint: Path, tmp_path: Path, make_recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("normtree.jobs.storage.local.LocalFolder.free_bytes", lambda self: 1000)
    with pytest.raises(StorageFull, match=r"bytes are wanted for the output, 1,000 are free"):
        run_job(make_recipe(checkpoint, tmp_path / "out", *RULES), INLINE)
    assert not (tmp_path / "out").exists()


def test_the_plan_reads_like_this(checkpoint: Path, tmp_path: Path, make_recipe: Any) -> None:
    (checkpoint / "pytorch_model.bin").write_bytes(b"0")
    text = str(plan_job(make_recipe("in", "out", *RULES[:2]).model_copy(update={"input": str(checkpoint)}), INLINE))
    size = sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file())
    assert text == (
        f"{checkpoint} -> out\n"
        f"3 shards, {size:,} bytes, 24 tensors: 9 projected (1,161,000 bytes), the others copied; "
        "4 other files copied\n"
        "rules[0] '.*(up|down)\\\\.weight': l1,linf, sparsity 0.5, scope tensor: 6 tensors, 1,080,000 bytes\n"
        "        3 of 300×200 float32, axes 0,1\n"
        "        3 of 200×300 float16, axes 0,1\n"
        "rules[1] '.*half\\\\.weight': l1,l2, relative_radius 0.2, scope tensor: 3 tensors, 81,000 bytes\n"
        "        3 of 150×90 bfloat16, axes 1,0\n"
        "note: copied as they are, though they seem to hold weights too: pytorch_model.bin"
    )


def test_a_report_of_the_index_is_not_needed_for_separate_models(tmp_path: Path, make_recipe: Any, loaded: Any) -> None:
    y = np.random.default_rng(0).standard_normal((10, 10))
    for part in ("unet", "text_encoder"):
        (tmp_path / "in" / part).mkdir(parents=True)
        save_file({"w": y}, tmp_path / "in" / part / "model.safetensors")
    outcome = run_job(make_recipe(tmp_path / "in", tmp_path / "out", "tensors = 'w'\nsparsity = 0.5"), INLINE)
    assert [facts.shard for facts in outcome.facts] == ["text_encoder/model.safetensors", "unet/model.safetensors"]
    for part in ("unet", "text_encoder"):
        assert json.dumps(sorted(loaded(tmp_path / "out" / part))) == '["w"]'
        assert loaded(tmp_path / "out" / part)["w"].tobytes() == nk.project(y, "l1,linf", sparsity=0.5).tobytes()
