"""Both engines on real tensors: the library's bits, real clocks, typed errors."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from time import monotonic, sleep
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import normtree_kernels as nk
from normtree.engine.cancel import Cancel
from normtree.engine.memory.arena import Segment
from normtree.engine.memory.tensor import Tensor
from normtree.engine.projector import Projector
from normtree.engine.timing.schema import Timing
from normtree.engine.workers.ray_workers import RayExecutor
from normtree.errors import Cancelled, DeadlineExceeded, EngineUnavailable, InvalidParameter, InvalidTensor
from normtree_kernels.arrays import Held
from normtree_kernels.tree.crown import crowns
from normtree_kernels.tree.goal import Goal

CASES = [
    ((300, 70), "l1,linf", None),
    ((300, 70), "l1,linf", "1,0"),
    ((300, 70), "l1,l1", None),
    ((300, 70), "l1,l2", "1,0"),
    ((16, 8, 3, 3), "l1,l2", "0,1.2.3"),
    ((16, 8, 3, 3), "l1,l1,linf", "2,0.3,1"),
    ((500,), "l1", None),
    ((1, 1), "l2,linf", None),
    ((0, 5), "l1,linf", None),
    ((), "l1", None),
]
ATTEMPTS = 20
SOON_S = 60.0  # to tell it from a hang: a machine may have much else to do
ENGINES = [("inline", 1), ("inline", 2), ("ray", 1), ("ray", 2)]


def noise(shape: tuple[int, ...], dtype: str = "float32") -> NDArray[np.float64]:
    return np.asarray(np.random.default_rng(7).standard_t(3, shape), dtype)


def project(
    projector: Projector, y: NDArray[np.float64], norm: str, radius: float, **options: object
) -> tuple[NDArray[np.float64], Timing]:
    plan = projector.plan(y.shape, y.dtype.str, norm=norm, radius=radius, **options)  # type: ignore[arg-type]
    return projector.project_array(y, plan)


@pytest.mark.parametrize(("engine", "workers"), ENGINES)
@pytest.mark.parametrize(("shape", "norm", "axes"), CASES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_bits_are_the_library_s(
    projector: Projector, shape: tuple[int, ...], norm: str, axes: str, engine: str, workers: int, dtype: str
) -> None:
    y = noise(shape, dtype)
    radius = 0.3 * nk.norm(y, norm, axes=axes)
    x, timing = project(projector, y, norm, radius, axes=axes, engine=engine, workers=workers)
    assert x.tobytes() == nk.project(y, norm, radius, axes=axes).tobytes()
    assert (timing.engine, timing.workers) == (engine, workers)


GOALS = [
    ((300, 70), "l1,linf", {"sparsity": 0.9}),
    ((300, 70), "l1,linf,l2", {"groups": 10, "axes": "1,,0"}),
    ((500,), "l1", {"groups": 50}),
    ((300, 70), "l1,l2", {"radius": 40.0, "exact": True}),
    ((300, 70), "l1,linf", {"radius": 40.0, "exact": True, "axes": "1,0"}),
    ((300, 70), "l1,linf", {"radius": 1e-12, "exact": True, "axes": "1,0"}),
    ((300, 70), "l1,l1", {"radius": 1e-17, "axes": "1,0"}),
    ((30, 7, 11), "l1,linf,linf", {"radius": 9.0, "exact": True}),
    ((30, 7, 11), "l1,linf,linf", {"radius": 0.0, "exact": True}),
    ((30, 7, 11), "l1,linf,linf", {"radius": 1e9, "exact": True}),
]


@pytest.mark.parametrize("engine", ["inline", "ray"])
@pytest.mark.parametrize(("shape", "norm", "goal"), GOALS, ids=str)
def test_every_goal_gives_the_library_s_bits(
    projector: Projector, shape: tuple[int, ...], norm: str, goal: dict[str, Any], engine: str
) -> None:
    y = noise(shape)
    plan = projector.plan(y.shape, y.dtype.str, norm=norm, engine=engine, **goal)
    x, timing = projector.project_array(y, plan)
    assert x.tobytes() == nk.project(y, norm, **goal).tobytes()
    share = {name: goal[name] for name in goal if name in ("sparsity", "groups")}
    wanted = nk.radius_for(y, norm, axes=goal.get("axes"), **share) if share else goal["radius"]
    assert timing.radius == wanted


@pytest.mark.parametrize("engine", ["inline", "ray"])
def test_an_exact_projection_reads_the_tensor_in_rounds(projector: Projector, engine: str) -> None:
    y = noise((300, 70))
    plan = projector.plan(y.shape, "<f4", norm="l1,linf", radius=40.0, exact=True, engine=engine, workers=2)
    x, timing = projector.project_array(y, plan, baseline="measure")
    assert x.tobytes() == nk.project(y, "l1,linf", 40.0, exact=True).tobytes()
    assert timing.levels[1].tasks > 3 * len(plan.blocks)
    assert timing.work_ms > timing.span_ms


def test_an_exact_projection_whose_sums_overflow_is_refused(projector: Projector) -> None:
    plan = projector.plan((2, 4), "<f8", norm="l1,linf", radius=1e307, exact=True)
    with pytest.raises(InvalidTensor, match=r"^tensor: the sum of a group's magnitudes overflows") as caught:
        projector.project_array(np.full((2, 4), 8e307), plan)
    assert (caught.value.pointer, caught.value.got) == ("tensor", np.inf)


TOGETHER = [((300, 70), "l1,linf", None), ((40, 30), "l1,linf", "1,0"), ((16, 8, 3, 3), "l1,l2,linf", "0,1,2.3")]


@pytest.mark.parametrize("engine", ["inline", "ray"])
@pytest.mark.parametrize("goal", [Goal(radius=150.0), Goal(sparsity=0.9), Goal(groups=7)], ids=str)
def test_several_tensors_are_projected_onto_one_ball(projector: Projector, engine: str, goal: Goal) -> None:
    ys = [noise(shape) for shape, _, _ in TOGETHER]
    plans = [
        projector.plan(shape, "<f4", norm=norm, axes=axes, radius=1.0, engine=engine) for shape, norm, axes in TOGETHER
    ]
    with ExitStack() as held:
        sources, targets = (
            [Tensor(held.enter_context(projector.arena.lease(y.nbytes)).name, y.shape, "<f4") for y in ys]
            for _ in range(2)
        )
        for y, source in zip(ys, sources, strict=True):
            source.array(writable=True)[...] = y
        timing = projector.project_together(sources, targets, plans, goal, baseline="measure")
        norms = [plan.norm for plan in plans]
        for y, target, norm, top in zip(
            ys, targets, norms, crowns(norms, [Held(y, n).norms() for y, n in zip(ys, norms, strict=True)], goal),
            strict=True,
        ):  # fmt: skip
            x = np.empty_like(y)
            Held(y, norm).project((Held(y, norm).norms(), top.radii), x)
            assert target.array().tobytes() == x.tobytes()
            assert timing.radius == top.radius
    assert timing.shape == (sum(y.size for y in ys),)
    assert timing.blocks == sum(len(plan.blocks) for plan in plans)
    assert timing.serial_is == "measured"


@pytest.mark.parametrize(
    ("second", "goal", "message"),
    [
        ({"norm": "l2,linf"}, Goal(radius=1.0), "norm: one outermost norm for all tensors is wanted, got l1, l2"),
        ({"norm": "l1"}, Goal(radius=1.0), "norm: one root for several tensors wants two levels or more"),
        ({"norm": "l1,linf", "exact": True}, Goal(radius=1.0), "exact: no exact projection of several tensors"),
        ({"norm": "l1,linf"}, Goal(groups=9), "groups: wanted 0 to 8, the outermost groups there are, got 9"),
    ],
)
def test_tensors_that_have_no_common_root_are_refused(
    projector: Projector, second: dict[str, Any], goal: Goal, message: str
) -> None:
    plans = [projector.plan((4, 4), "<f4", radius=1.0, **options) for options in ({"norm": "l1,linf"}, second)]
    tensor = Tensor("nowhere", (4, 4), "<f4")
    with pytest.raises(InvalidParameter, match=message) as caught:
        projector.project_together([tensor] * 2, [tensor] * 2, plans, goal)
    assert caught.value.pointer == message.partition(":")[0]


def test_a_bad_tensor_among_several_is_told_by_its_index(projector: Projector) -> None:
    y = noise((4, 4))
    plans = [projector.plan(y.shape, "<f4", norm="l1,linf", radius=1.0)] * 2
    with projector.arena.lease(2 * y.nbytes) as source, projector.arena.lease(2 * y.nbytes) as target:
        sources, targets = (
            [Tensor(held.name, y.shape, "<f4", offset=i * y.nbytes) for i in range(2)] for held in (source, target)
        )
        sources[0].array(writable=True)[...] = y
        y[2, 3] = np.nan
        sources[1].array(writable=True)[...] = y
        with pytest.raises(InvalidTensor, match=r"tensor 1: element \[2, 3\] is nan"):
            projector.project_together(sources, targets, plans, Goal(radius=1.0))


@pytest.mark.parametrize("engine", ["inline", "ray"])
def test_a_fortran_tensor_goes_to_a_c_tensor(projector: Projector, engine: str) -> None:
    y = noise((40, 30))
    with projector.arena.lease(y.nbytes) as source, projector.arena.lease(y.nbytes) as target:
        source.buffer[:] = y.tobytes(order="F")
        plan = projector.plan(y.shape, "<f4", norm="l1,l1", radius=20.0, engine=engine)
        out = Tensor(target.name, y.shape, "<f4")
        projector.project(Tensor(source.name, y.shape, "<f4", "F"), out, plan)
        assert out.array().tobytes() == nk.project(y, "l1,l1", 20.0).tobytes()


@pytest.mark.parametrize("engine", ["inline", "ray"])
def test_the_clocks_are_real(projector: Projector, engine: str) -> None:
    y = noise((2000, 1000))
    _, t = project(projector, y, "l1,l1", 100.0, engine=engine, workers=2)
    assert 0 < t.span_ms <= t.work_ms
    assert t.span_ms <= t.wall_ms * 1.001
    assert t.wall_ms == pytest.approx(sum(t.stages_ms[stage] for stage in ("up", "root", "down")))
    assert t.stages_ms["total"] >= t.wall_ms
    assert t.levels[-1].bytes == 3 * y.nbytes
    assert t.serial_is == "modelled"
    assert t.blocks == projector.workers
    assert t.bytes_moved == (3 * 8 * 2000 if engine == "ray" else 0)


def test_the_serial_reference_can_be_measured(projector: Projector) -> None:
    y = noise((500, 400))
    plan = projector.plan(y.shape, y.dtype.str, norm="l1,l2", radius=10.0, engine="inline")
    x, timing = projector.project_array(y, plan, baseline="measure")
    assert timing.serial_is == "measured"
    assert timing.serial_ms > 0
    assert np.array_equal(x, nk.project(y, "l1,l2", 10.0))


@pytest.mark.parametrize("engine", ["inline", "ray"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_bad_element_is_told_by_its_index(projector: Projector, engine: str, bad: float) -> None:
    y = noise((50, 40))
    y[31, 7] = bad
    with pytest.raises(InvalidTensor, match=r"element \[31, 7\] is -?(nan|inf)"):
        project(projector, y, "l1,l1", 1.0, engine=engine)


@pytest.mark.parametrize("goal", [{"radius": 1.0}, {"sparsity": 0.5}])
def test_a_bad_element_of_one_level_is_told_by_its_index(projector: Projector, goal: dict[str, float]) -> None:
    y = noise((50,))
    y[31] = np.nan
    plan = projector.plan(y.shape, "<f4", norm="l1", engine="inline", **goal)  # type: ignore[arg-type]
    with pytest.raises(InvalidTensor, match=r"element \[31\] is nan"):
        projector.project_array(y, plan)


@pytest.mark.parametrize("engine", ["inline", "ray"])
def test_a_norm_that_overflows_is_told(projector: Projector, engine: str) -> None:
    with pytest.raises(InvalidTensor, match="overflows float64"):
        project(projector, np.full((4, 4), 1e308), "l1,l1", 1.0, engine=engine)


@pytest.mark.parametrize(
    ("options", "pointer"),
    [
        ({"norm": "l3"}, "norm"),
        ({"axes": "0,0"}, "axes"),
        ({"radius": -1.0}, "radius"),
        ({"radius": float("nan")}, "radius"),
        ({"sparsity": 0.5}, "radius"),
        ({"radius": None}, "radius"),
        ({"radius": None, "sparsity": 2.0}, "sparsity"),
        ({"radius": None, "groups": 5}, "groups"),
        ({"radius": None, "sparsity": 0.5, "norm": "l2,l1"}, "sparsity"),
        ({"norm": "l1,l1", "exact": True}, "exact"),
        ({"radius": None, "groups": 1, "exact": True}, "exact"),
        ({"engine": "gpu"}, "engine"),
        ({"workers": 99}, "workers"),
    ],
)
def test_a_wrong_parameter_is_named(projector: Projector, options: dict[str, object], pointer: str) -> None:
    arguments = {"norm": "l1,linf", "radius": 1.0, **options}
    with pytest.raises(InvalidParameter) as caught:
        projector.plan((4, 4), "<f4", **arguments)  # type: ignore[arg-type]
    assert caught.value.pointer == pointer
    assert None not in (caught.value.limit, caught.value.got)


@pytest.mark.parametrize("dtype", ["int8", "<c16", "int99"])
def test_an_element_type_that_cannot_be_is_named(projector: Projector, dtype: str) -> None:
    with pytest.raises(InvalidTensor, match=r"^tensor: wanted dtype float64, ") as caught:
        projector.plan((4, 4), dtype, norm="l1,linf", radius=1.0)
    assert (caught.value.pointer, caught.value.got) == ("tensor", dtype)


def test_nothing_stays_leased(projector: Projector) -> None:
    project(projector, noise((50, 40)), "l1,linf", 1.0)
    with pytest.raises(InvalidTensor):
        project(projector, np.full((4, 4), np.nan), "l1,linf", 1.0)
    assert projector.arena.leased_bytes == 0


@pytest.fixture(scope="module")
def large() -> NDArray[np.float64]:
    return noise((8000, 4000))


@pytest.fixture
def slow(projector: Projector, large: NDArray[np.float64]) -> Iterator[tuple[Segment, Segment, NDArray[np.float64]]]:
    """A tensor whose projection takes a good while: l1 fibres that lie across memory."""
    y = large
    with projector.arena.lease(y.nbytes) as source, projector.arena.lease(y.nbytes) as target:
        source.buffer[:] = memoryview(y.data).cast("B")
        yield source, target, y


def kill_after(delay_s: float, pids: list[int]) -> None:
    sleep(delay_s)
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.kills
def test_a_killed_worker_costs_a_retry_and_no_bit(
    projector: Projector, slow: tuple[Segment, Segment, NDArray[np.float64]]
) -> None:
    source, target, y = slow
    plan = projector.plan(y.shape, "<f4", norm="l1,l1", axes="1,0", radius=1000.0, engine="ray", workers=2)
    tensors = Tensor(source.name, y.shape, "<f4"), Tensor(target.name, y.shape, "<f4")
    assert projector.ray
    middle_s = projector.project(*tensors, plan).wall_ms / 2e3
    for _ in range(ATTEMPTS):  # a request that others of the machine held up, or did not, may be missed
        tensors[1].array(writable=True)[...] = np.nan
        killer = threading.Thread(target=kill_after, args=(middle_s, projector.ray.worker_pids()[:2]))
        killer.start()
        timing = projector.project(*tensors, plan)
        killer.join()
        if timing.retries:
            break
    assert timing.retries
    assert tensors[1].array().tobytes() == nk.project(y, "l1,l1", 1000.0, axes="1,0").tobytes()


@pytest.mark.parametrize("engine", ["inline", "ray"])
def test_a_passed_deadline_is_told(
    projector: Projector, slow: tuple[Segment, Segment, NDArray[np.float64]], engine: str
) -> None:
    source, target, y = slow
    plan = projector.plan(y.shape, "<f4", norm="l1,l1", axes="1,0", radius=1000.0, engine=engine)
    tensors = Tensor(source.name, y.shape, "<f4"), Tensor(target.name, y.shape, "<f4")
    with pytest.raises(DeadlineExceeded, match=r"longer than 0.02 s and was cancelled"):
        projector.project(*tensors, plan, deadline_s=0.02)
    assert projector.slates.leased_bytes == 0


@pytest.mark.parametrize("engine", ["inline", "ray"])
def test_work_that_is_cancelled_ends_soon(
    projector: Projector, slow: tuple[Segment, Segment, NDArray[np.float64]], engine: str
) -> None:
    source, target, y = slow
    plan = projector.plan(y.shape, "<f4", norm="l1,l1", axes="1,0", radius=1000.0, engine=engine)
    tensors = Tensor(source.name, y.shape, "<f4"), Tensor(target.name, y.shape, "<f4")
    cancel = Cancel()
    timer = threading.Timer(0.02, cancel.set)
    timer.start()
    start = monotonic()
    with pytest.raises(Cancelled):  # and no answer: so it did not go on to the end
        projector.project(*tensors, plan, cancel=cancel)
    assert monotonic() - start < SOON_S
    assert projector.slates.leased_bytes == 0


def test_what_is_cancelled_before_it_begins_never_begins(projector: Projector) -> None:
    cancel = Cancel()
    cancel.set()
    y = noise((50, 40))
    plan = projector.plan(y.shape, "<f4", norm="l1,l1", radius=1.0)
    with projector.arena.lease(y.nbytes) as source, projector.arena.lease(y.nbytes) as target:
        tensors = Tensor(source.name, y.shape, "<f4"), Tensor(target.name, y.shape, "<f4")
        with pytest.raises(Cancelled):
            projector.project(*tensors, plan, cancel=cancel)


def test_where_ray_finds_no_place_for_its_files_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/proc/normtree")
    with pytest.raises(EngineUnavailable, match=r"/proc/normtree.*set RAY_TMPDIR to a folder of this user's own"):
        RayExecutor(1)


@pytest.mark.parametrize("engine", ["inline", "ray"])
@pytest.mark.parametrize("norm", ["l1", "l1,linf", "l1,l1"])
def test_a_timing_tells_groups_asked_and_left(projector: Projector, norm: str, engine: str) -> None:
    for y, goal, told in (
        (noise((300, 70), "float64"), {"groups": 7}, (7, 7)),
        (np.ones((300, 70)), {"groups": 7}, (7, 0)),
        (noise((300, 70), "float64"), {"radius": 1.0}, (None, None)),
    ):
        plan = projector.plan(y.shape, y.dtype.str, norm=norm, engine=engine, **goal)
        _, timing = projector.project_array(y, plan)
        assert (timing.groups_asked, timing.groups_left) == told
        assert timing.as_dict()["warning"] == timing.warning
        assert timing.warning.startswith("no group is left of the 7 asked for") == (told == (7, 0))


@pytest.mark.parametrize("given", [{"radius": np.array(2.0)}, {"sparsity": np.array(0.5)}, {"groups": np.array(3)}])
def test_a_plan_takes_numbers_without_axes(projector: Projector, given: dict[str, Any]) -> None:
    (name, value), goal = *given.items(), projector.plan((6, 5), "<f4", norm="l1,linf", **given).goal
    assert getattr(goal, name) == value.item()
