"""One small block: the tree's bits and clocks without the tree."""

import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import monotonic_ns

import numpy as np
import pytest

import normtree_kernels as nk
from normtree.engine import run as runs
from normtree.engine.cancel import Cancel
from normtree.engine.common_root import check_together
from normtree.engine.memory.arena import Arena
from normtree.engine.memory.stop import Stopped
from normtree.engine.memory.tensor import Tensor
from normtree.engine.plan import Plan
from normtree.engine.projector import Projector
from normtree.engine.run import TensorRun, Terms, run_tree
from normtree.engine.timing_of_run import make_timing
from normtree.engine.workers.threads import InlineExecutor
from normtree.errors import BodyTooLarge, InvalidTensor
from normtree_kernels import MixedNorm
from normtree_kernels.tree.blocks import cut, split
from normtree_kernels.tree.goal import Goal
from normtree_kernels.tree.projection import ranks_elements

CASES = [
    ((128, 128), "l1,linf", None, Goal(radius=9.0)),
    ((128, 128), "l1,l1", "1,0", Goal(sparsity=0.9)),
    ((40, 3, 50), "l1,linf,l2", "1,0,2", Goal(groups=2)),
    ((500,), "l1", None, Goal(groups=50)),
    ((), "l2", None, Goal(radius=0.1)),
    ((0, 5), "l1,l2", None, Goal(radius=1.0)),
]

NOWHERE = Arena(0)  # room for no slate
USUAL_PHASES = 3


@pytest.fixture
def executor() -> Iterator[InlineExecutor]:
    started = InlineExecutor(1)
    yield started
    started.close()


@pytest.fixture
def arena(tmp_path: Path) -> Arena:
    return Arena(1 << 20, tmp_path)


def terms(**given: object) -> Terms:
    return Terms(monotonic_ns() + 10**11, **given)  # type: ignore[arg-type]


def make_work(shape: tuple[int, ...], norm: str, axes: str | None, goal: Goal) -> TensorRun:
    mixed = MixedNorm.parse(norm, axes, ndim=len(shape))
    blocks = cut(shape, mixed, 1, ranks=ranks_elements(mixed, goal))
    plan = Plan(shape, "float32", mixed, goal, False, "inline", 1, "asked", blocks, {}, 1.0)
    y = np.random.default_rng(3).standard_t(3, shape).astype(np.float32)
    memory = memoryview(bytearray(y.tobytes()))
    return TensorRun(
        Tensor("", shape, "float32", memory=memory),
        Tensor("", shape, "float32", memory=memoryview(bytearray(y.nbytes))),
        plan,
    )


@pytest.mark.parametrize(("shape", "norm", "axes", "goal"), CASES, ids=str)
def test_it_gives_the_tree_s_bits_and_timing(
    executor: InlineExecutor,
    arena: Arena,
    monkeypatch: pytest.MonkeyPatch,
    shape: tuple[int, ...],
    norm: str,
    axes: str | None,
    goal: Goal,
) -> None:
    work = make_work(shape, norm, axes, goal)
    y, x = work.source.array(), work.target.array()
    run = run_tree(executor, NOWHERE, [work], goal, terms())
    right = nk.project(y, norm, goal.radius, axes=axes, sparsity=goal.sparsity, groups=goal.groups)
    assert x.tobytes() == right.tobytes()

    monkeypatch.setattr(runs, "SMALL_BYTES", -1)
    tree = run_tree(executor, arena, [work], goal, terms())
    assert (run.norms, run.reach, run.finite) == (tree.norms, tree.reach, tree.finite)
    ours, theirs = (make_timing([work.plan], each, 1.0, "modelled") for each in (run, tree))
    assert [(one.norm, one.tasks) for one in ours.levels] == [(one.norm, one.tasks) for one in theirs.levels]
    if len(run.phases) <= USUAL_PHASES:  # samples and digits are not all of a tensor
        assert [one.bytes for one in ours.levels] == [one.bytes for one in theirs.levels]
    assert list(ours.stages_ms) == list(theirs.stages_ms)
    assert 0 < ours.span_ms <= ours.wall_ms


def test_of_a_tensor_that_is_not_finite_nothing_is_projected(executor: InlineExecutor) -> None:
    work = make_work((8, 8), "l1,linf", None, Goal(radius=1.0))
    work.source.array(writable=True)[3, 4] = np.nan
    run = run_tree(executor, NOWHERE, [work], work.plan.goal, terms())
    assert not run.finite
    assert not work.target.array().any()


def test_it_ends_when_it_has_to(executor: InlineExecutor) -> None:
    work = make_work((8, 8), "l1,linf", None, Goal(radius=1.0))
    cancel = Cancel()
    cancel.set()
    for over in (Terms(monotonic_ns()), terms(cancel=cancel)):
        with pytest.raises(Stopped):
            run_tree(executor, NOWHERE, [work], work.plan.goal, over)
    assert not work.target.array().any()


def test_all_else_needs_a_slate(executor: InlineExecutor) -> None:
    work = make_work((8, 8), "l1,linf", None, Goal(radius=1.0))
    larger = make_work((runs.SMALL_BYTES // 32 + 1, 8), "l1,linf", None, Goal(radius=1.0))
    in_two = replace(work, plan=replace(work.plan, blocks=split((8, 8), work.plan.norm, 2)))
    for works in ([work, work], [larger], [in_two]):
        with pytest.raises(BodyTooLarge):
            run_tree(executor, NOWHERE, works, work.plan.goal, terms())


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
