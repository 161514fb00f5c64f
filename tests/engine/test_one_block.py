"""One small block: the tree's bits and clocks without the tree."""

import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import monotonic_ns

import numpy as np
import pytest

import normtree_kernels as nk
from normtree.engine.arena import Arena
from normtree.engine.cancel import Cancel
from normtree.engine.inline import InlineExecutor
from normtree.engine.one_block import LIMIT_BYTES, is_one_block, run_one_block
from normtree.engine.plan import Plan
from normtree.engine.projector import Projector
from normtree.engine.report import make_timing
from normtree.engine.run import Terms, Work, run_tree
from normtree.engine.stop import Stopped
from normtree.engine.tensor import Tensor
from normtree.engine.together import check_together
from normtree.engine.watermark import Watermark
from normtree.errors import InvalidTensor
from normtree_kernels import MixedNorm
from normtree_kernels.blocks import split
from normtree_kernels.goal import Goal

CASES = [
    ((128, 128), "l1,linf", None, Goal(radius=9.0)),
    ((128, 128), "l1,l1", "1,0", Goal(sparsity=0.9)),
    ((40, 3, 50), "l1,linf,l2", "1,0,2", Goal(groups=2)),
    ((500,), "l1", None, Goal(groups=50)),
    ((), "l2", None, Goal(radius=0.1)),
    ((0, 5), "l1,l2", None, Goal(radius=1.0)),
]


@pytest.fixture
def executor() -> Iterator[InlineExecutor]:
    started = InlineExecutor(1)
    yield started
    started.close()


def terms(**given: object) -> Terms:
    return Terms(monotonic_ns() + 10**10, **given)  # type: ignore[arg-type]


def make_work(shape: tuple[int, ...], norm: str, axes: str | None, goal: Goal) -> Work:
    mixed = MixedNorm.parse(norm, axes, ndim=len(shape))
    plan = Plan(shape, "float32", mixed, goal, False, "inline", 1, "asked", split(shape, mixed, 1), {}, 1.0)
    y = np.random.default_rng(3).standard_t(3, shape).astype(np.float32)
    memory = memoryview(bytearray(y.tobytes()))
    return Work(
        Tensor("", shape, "float32", memory=memory),
        Tensor("", shape, "float32", memory=memoryview(bytearray(y.nbytes))),
        plan,
    )


@pytest.mark.parametrize(("shape", "norm", "axes", "goal"), CASES, ids=str)
def test_it_gives_the_tree_s_bits_and_timing(
    executor: InlineExecutor, tmp_path: Path, shape: tuple[int, ...], norm: str, axes: str | None, goal: Goal
) -> None:
    work = make_work(shape, norm, axes, goal)
    y, x = work.source.array(), work.target.array()
    assert is_one_block(executor, [work], terms())
    run = run_one_block(work, goal, terms())
    right = nk.project(y, norm, goal.radius, axes=axes, sparsity=goal.sparsity, groups=goal.groups)
    assert x.tobytes() == right.tobytes()

    tree = run_tree(executor, Arena(1 << 20, tmp_path), [work], goal, terms())
    assert (run.norms, run.reach, run.finite) == (tree.norms, tree.reach, tree.finite)
    ours, theirs = (make_timing([work.plan], each, 1.0, "modelled") for each in (run, tree))
    assert [(one.norm, one.tasks, one.bytes) for one in ours.levels] == [
        (one.norm, one.tasks, one.bytes) for one in theirs.levels
    ]
    assert list(ours.stages_ms) == list(theirs.stages_ms)
    assert 0 < ours.span_ms <= ours.wall_ms


def test_of_a_tensor_that_is_not_finite_nothing_is_projected() -> None:
    work = make_work((8, 8), "l1,linf", None, Goal(radius=1.0))
    work.source.array(writable=True)[3, 4] = np.nan
    run = run_one_block(work, work.plan.goal, terms())
    assert not run.finite
    assert not work.target.array().any()


def test_it_ends_when_it_has_to() -> None:
    work = make_work((8, 8), "l1,linf", None, Goal(radius=1.0))
    cancel = Cancel()
    cancel.set()
    for over in (Terms(monotonic_ns()), terms(cancel=cancel)):
        with pytest.raises(Stopped):
            run_one_block(work, work.plan.goal, over)
    assert not work.target.array().any()


def test_all_else_is_a_tree(executor: InlineExecutor) -> None:
    work = make_work((8, 8), "l1,linf", None, Goal(radius=1.0))
    larger = make_work((LIMIT_BYTES // 32 + 1, 8), "l1,linf", None, Goal(radius=1.0))
    cut = replace(work, plan=replace(work.plan, blocks=split((8, 8), work.plan.norm, 2)))
    exact = replace(work, plan=replace(work.plan, exact=True))
    for works in ([work, work], [larger], [cut], [exact]):
        assert not is_one_block(executor, works, terms())
    assert not is_one_block(executor, [work], terms(landed=Watermark()))
    assert not is_one_block(executor, [work], terms(done=Watermark()))


def test_a_tensor_in_memory_of_the_process_cannot_travel() -> None:
    with pytest.raises(TypeError, match="memoryview"):
        pickle.dumps(make_work((2, 2), "l1,linf", None, Goal(radius=1.0)).source)


@pytest.mark.parametrize("engine", ["inline", "ray"])
def test_groups_without_elements_cost_nothing(projector: Projector, engine: str) -> None:
    y = np.empty((2**40, 0), np.float32)
    for given in ({"radius": 1.0}, {"sparsity": 0.5}, {"groups": 3}):
        plan = projector.plan(y.shape, "<f4", norm="l1,linf", engine=engine, **given)
        x, timing = projector.project_array(y, plan)
        assert x.shape == y.shape
        assert timing.warning == ""
    many, few = (projector.plan((n, 0), "<f4", norm="l1,linf", radius=1.0) for n in (2**40, 5))
    check_together([few, few], Goal(radius=1.0))
    with pytest.raises(InvalidTensor, match="shape: at most 1048576 groups without elements share a ball"):
        check_together([few, many], Goal(radius=1.0))
