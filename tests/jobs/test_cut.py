"""Tensors that are cut every way there is have the bytes of their own projection, and take little memory."""

import itertools
import json
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

import normtree_kernels as nk
from normtree.errors import InvalidRecipe, InvalidTensor
from normtree.jobs.plan import job_plan as job_plan
from normtree.jobs.plan.cut import cut_up
from normtree.jobs.plan.layout import Layout
from normtree.jobs.run import JobOptions, plan_job, run_job
from normtree.processes import usable
from normtree_kernels import MixedNorm

Array = NDArray[Any]
MIB = 1 << 20
SMALL = JobOptions(workers=2, memory_bytes=MIB, engine="inline")

# Shapes and axes: columns, narrow and wide, with a last part of one element; rows of columns; columns of filters,
# whose fibres are scattered; rows that are long fibres; and tensors that are a single fibre.
TWO_LEVELS = {
    "narrow": ((6145, 7), "1,0"),
    "wide": ((70, 900), "1,0"),
    "between": ((3, 3000, 5), "0.2,1"),
    "filters": ((2100, 6, 3), "1,0.2"),
    "short": ((40, 300, 9), "1,0.2"),
    "long": ((3, 21000), "0,1"),
}
ONE_LEVEL = {"vector": ((20481,), "0"), "matrix": ((300, 200), "0.1")}
NORMS = ("l1,linf", "l1,l2", "l1,l1", "linf,l1", "l2,l2")
SINGLE = ("l1", "l2", "linf")
DTYPES = ("float32", "float16", "bfloat16", "float64")


def goals_of(norm: str) -> list[str]:
    goals = ["relative_radius = 0.3", "relative_radius = 1e-17"]
    if norm.startswith("l1"):
        goals.append("sparsity = 0.4")
    exact = ["relative_radius = 0.2\nexact = true", "relative_radius = 1e-12\nexact = true"]
    return [*goals, *exact] if norm in ("l1,linf", "l1,l2") else goals


def cases() -> list[tuple[str, tuple[int, ...], str, str, str]]:
    """List every case: name, shape, axes, norm, goal."""
    two = ((k, *TWO_LEVELS[k], norm, goal) for k in TWO_LEVELS for norm in NORMS for goal in goals_of(norm))
    one = (
        (k, *ONE_LEVEL[k], norm, goal) for k in ONE_LEVEL for norm in ("l1", "l2", "linf") for goal in goals_of(norm)
    )
    return [(f"{case[0]}.{i}", *case[1:]) for i, case in enumerate(itertools.chain(two, one))]


def wanted(y: Array, axes: str, norm: str, goal: str) -> Array:
    """Project a tensor whole, by the library."""
    value = float(goal.split()[2])
    if goal.startswith("sparsity"):
        return nk.project(y, norm, axes=axes, sparsity=value)
    return nk.project(y, norm, value * nk.norm(y, norm, axes=axes), axes=axes, exact="exact" in goal)


def write(folder: Path, dtype: str) -> dict[str, Array]:
    """Write a tensor for each case."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    element = Layout((), dtype, MixedNorm.parse("l1", ndim=0)).element
    tensors = {name: rng.standard_normal(shape).astype(element) for name, shape, *_ in cases()}
    for y in tensors.values():
        y[rng.random(y.shape) < 0.02] = 0.0
    save_file(tensors, folder / "model.safetensors")
    return tensors


def rules(some: list[tuple[str, tuple[int, ...], str, str, str]]) -> list[str]:
    return [f"tensors = '{name}'\nnorm = '{norm}'\naxes = '{axes}'\n{goal}" for name, _, axes, norm, goal in some]


@pytest.fixture
def tiny_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_plan, "LEAST_TASK_BYTES", 1 << 15)
    monkeypatch.setattr(job_plan, "MOST_TASK_BYTES", 1 << 15)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_rule_is_split_and_writes_what_the_library_returns(
    tmp_path: Path, make_recipe: Any, loaded: Any, tiny_tasks: None, dtype: str
) -> None:
    ys = write(tmp_path / "in", dtype)
    some = cases()[:: 3 if dtype == "float64" else 1]  # its panels are cut across too, and read line by line
    recipe = make_recipe(tmp_path / "in", tmp_path / "out", *rules(some))
    plan = plan_job(recipe, SMALL)
    assert SMALL.memory_bytes
    assert plan.buffer_bytes <= SMALL.memory_bytes
    small = [work.name for work in plan.works if not plan.is_split(work)]
    assert not small or dtype in ("float16", "bfloat16")
    outcome = run_job(recipe, SMALL)
    xs = loaded(tmp_path / "out")
    wrong = [
        (name, norm, goal)
        for name, _, axes, norm, goal in some
        if xs[name].tobytes() != wanted(ys[name], axes, norm, goal).tobytes()
    ]
    assert not wrong
    for facts in outcome.facts:
        evidence = nk.certify(ys[facts.name], xs[facts.name], facts.norm, facts.radius, axes=facts.axes)
        assert (facts.norm_before, facts.norm_after) == (evidence.norm_before, evidence.norm_after), facts
        assert facts.distance == pytest.approx(evidence.distance, rel=1e-12)
        assert facts.zero_groups == evidence.zero_groups


@pytest.mark.nodes
@pytest.mark.slow
def test_every_cut_gives_the_same_bytes_on_ray(
    tmp_path: Path, make_recipe: Any, loaded: Any, tiny_tasks: None, cluster: str
) -> None:
    ys = write(tmp_path / "in", "float32")
    some = cases()[::3]
    outcome = run_job(
        make_recipe(tmp_path / "in", tmp_path / "out", *rules(some)), JobOptions(memory_bytes=MIB, engine="ray")
    )
    assert {"up", "round", "down"} <= {stint["kind"] for stint in outcome.stints}
    xs = loaded(tmp_path / "out")
    for name, _, axes, norm, goal in some:
        assert xs[name].tobytes() == wanted(ys[name], axes, norm, goal).tobytes(), (name, norm, goal)


def test_a_global_rule_may_cut_its_tensors_in_different_ways(
    tmp_path: Path, make_recipe: Any, loaded: Any, tiny_tasks: None
) -> None:
    rng = np.random.default_rng(0)
    ys = {name: rng.standard_normal(shape) for name, shape in (("a", (6145, 7)), ("b", (40, 1700)), ("c", (30, 20)))}
    (tmp_path / "in").mkdir()
    for name, y in ys.items():
        save_file({name: y}, tmp_path / "in" / f"{name}.safetensors")
    rule = "tensors = '.'\nnorm = 'l1,l1'\naxes = '1,0'\nsparsity = 0.5\nscope = 'global'"
    run_job(make_recipe(tmp_path / "in", tmp_path / "out", rule), SMALL)
    run_job(make_recipe(tmp_path / "in", tmp_path / "whole", rule), JobOptions(workers=1, engine="inline"))
    cut, whole = loaded(tmp_path / "out"), loaded(tmp_path / "whole")
    assert {name: x.tobytes() for name, x in cut.items()} == {name: x.tobytes() for name, x in whole.items()}
    assert sum(int((x == 0).all(axis=0).sum()) for x in cut.values()) == (7 + 1700 + 20 + 1) // 2


@pytest.mark.parametrize("place", [(0, 0), (5000, 3), (6144, 6)])
def test_an_element_that_is_not_finite_is_named_where_fibres_are_cut(
    tmp_path: Path, make_recipe: Any, tiny_tasks: None, place: tuple[int, int]
) -> None:
    y = np.zeros((6145, 7), np.float32)
    y[place] = np.nan
    (tmp_path / "in").mkdir()
    save_file({"w": y}, tmp_path / "in" / "a.safetensors")
    rule = "tensors = 'w'\naxes = '1,0'\nradius = 1"
    with pytest.raises(InvalidTensor, match=rf"a.safetensors: w: element \[{place[0]}, {place[1]}\] is nan"):
        run_job(make_recipe(tmp_path / "in", tmp_path / "out", rule), SMALL)


@pytest.mark.parametrize("shape", [(5000, 7), (70, 900), (3, 3000, 5), (2100, 6, 3), (40, 300, 9), (9, 9), (1025, 2)])
@pytest.mark.parametrize("in_order", [False, True])
@pytest.mark.parametrize("panel_bytes", [1 << 12, 1 << 16])
def test_panels_hold_each_byte_once(shape: tuple[int, ...], in_order: bool, panel_bytes: int) -> None:
    for axes in ("1,0", "0,1", "1,0.2", "0.2,1", "0.1,2", "2,0.1", "0,1.2", "1.2,0"):
        if axes.count(".") == len(shape) - 2:
            layout = Layout(shape, "float32", MixedNorm.parse("l1,l2", axes, ndim=len(shape)))
            cut = cut_up(layout, panel_bytes, in_rounds=False, in_order=in_order)
            runs = [run for panel in cut.panels(0, cut.count) for run in cut.runs(panel)]
            assert sum(cut.nbytes(panel) for panel in cut.panels(0, cut.count)) == 4 * prod(shape)
            ends = [0, *(stop for _, stop in sorted(runs))]
            assert [start for start, _ in sorted(runs)] == ends[:-1]
            assert ends[-1] == 4 * prod(shape)
            assert not in_order or runs == sorted(runs)


def write_sparse(folder: Path, shape: tuple[int, ...]) -> Path:
    """Write a tensor of zeros that take no room."""
    nbytes = 4 * prod(shape)
    header = json.dumps({"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, nbytes]}}).encode()
    folder.mkdir()
    with (folder / "a.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + nbytes)
    return folder


def test_what_cannot_be_cut_says_so_and_how_much_memory_it_takes(tmp_path: Path, make_recipe: Any) -> None:
    rule = "tensors = 'w'\nnorm = 'l1,l2'\naxes = '1,0.2'\nsparsity = 0.5"  # a fibre is all there is of the width
    recipe = make_recipe(write_sparse(tmp_path / "in", (1000, 2, 100_003)), tmp_path / "out", rule)
    with pytest.raises(
        InvalidRecipe, match=r"cut into no less than 381\.5 MiB .* 1 worker that takes 763\.\d MiB of mem"
    ):
        plan_job(recipe, JobOptions(workers=2, memory_bytes=512 * MIB, engine="inline"))
    plans = [
        plan_job(recipe, JobOptions(workers=2, memory_bytes=each, engine="inline")) for each in (800 * MIB, 1600 * MIB)
    ]
    assert [plan.workers for plan in plans] == [1, 2]
    assert [plan.buffer_bytes // (10 * MIB) for plan in plans] == [76, 152]
    assert "1 of 2 workers: more would take more than 800 MiB of memory" in str(plans[0])
    assert "workers" not in str(plans[1])


@pytest.mark.parametrize("memory_bytes", [None, 512 * MIB, 64 * MIB])
@pytest.mark.parametrize("workers", [1, 8, 64, 256])
@pytest.mark.parametrize("norm", ["l1,linf", "l1,l1"])
@pytest.mark.parametrize("shape", [(128_256, 4096), (4096, 128_256)])
def test_workers_and_memory_fit_each_other_by_themselves(
    tmp_path: Path, make_recipe: Any, shape: tuple[int, ...], norm: str, workers: int, memory_bytes: int | None
) -> None:
    source = write_sparse(tmp_path / "in", shape)
    for axes in ("1,0", "0,1"):
        rule = f"tensors = 'w'\nnorm = '{norm}'\naxes = '{axes}'\nsparsity = 0.5"
        plan = plan_job(make_recipe(source, tmp_path / "out", rule), JobOptions(workers, memory_bytes))
        assert plan.fits
        assert plan.memory_bytes == (memory_bytes or plan.memory_bytes)
        assert 1 <= plan.workers <= workers
        assert (f"{plan.workers} of {workers} workers" in str(plan)) == (plan.workers < workers)
        assert memory_bytes == 64 * MIB or plan.workers >= min(workers, 32)


def test_a_tensor_may_have_more_than_the_default_where_it_wants_it(tmp_path: Path, make_recipe: Any) -> None:
    rule = "tensors = 'w'\nnorm = 'l1,l2'\naxes = '1,0.2'\nsparsity = 0.5"
    recipe = make_recipe(write_sparse(tmp_path / "in", (1000, 2, 100_003)), tmp_path / "out", rule)
    usual, most = JobOptions(workers=2).bounds_bytes(2)
    assert usual == min(512 * MIB, most)
    if most > 800 * MIB:
        assert 512 * MIB < plan_job(recipe, JobOptions(workers=1)).buffer_bytes <= most


def test_memory_grows_with_the_workers_up_to_half_of_what_is_free() -> None:
    bounds = [JobOptions().bounds_bytes(workers) for workers in (1, 2, 8, 10**6)]
    for workers, (usual, most) in zip((1, 2, 8, 10**6), bounds, strict=True):
        assert usual == min(max(512, 256 * workers) * MIB, most)
        assert most <= usable.memory_bytes() // 2
    assert JobOptions(memory_bytes=MIB).bounds_bytes(64) == [MIB]
