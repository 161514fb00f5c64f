"""Plans: from shapes alone, with a reason, and readable."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from normtree.engine.plan import Plan, make_plan
from normtree.engine.profile.machine import Machine
from normtree.engine.profile.machine_profile import Curve, EngineCost, MachineProfile, SweepCost
from normtree_kernels import MixedNorm
from normtree_kernels.tree.goal import Goal

MB = 1_000_000
NEVER = Curve((1,), (0.0,))
SCALES = SweepCost(Curve((1, MB), (0, 1e5)), Curve((1, MB), (0, 0.25e5)), NEVER)  # 10 GB/s a thread, 40 on four
BOUND = SweepCost(Curve((1, MB), (0, 1e5)), Curve((1, MB), (0, 1e5)), NEVER)  # 10 GB/s, however many threads
LEAVES = {"l1": SCALES, "l2": SCALES, "linf": BOUND}
LAYOUTS = ("rows", "columns", "packed")
INLINE, RAY = EngineCost(0.1, 0.1, 0.0, 1.0), EngineCost(10.0, 0.1, 1.0, 1.0)
PROFILE = MachineProfile(
    machine=Machine("a processor", 4, "6.1", {"python": "3.11"}, "0"),
    measured=datetime(2026, 1, 1, tzinfo=UTC),
    workers=4,
    bandwidth_gb_s={"read": {1: 10.0, 2: 10.0, 4: 10.0}},
    leaves={f"{norm} {layout}": {"up": cost, "down": cost} for norm, cost in LEAVES.items() for layout in LAYOUTS},
    dtypes={
        f"{norm} {layout} {dtype}": {"up": ratio, "down": ratio}
        for norm in LEAVES
        for layout in LAYOUTS
        for dtype, ratio in (("float64", 0.5), ("bfloat16", 2.0))
    },
    engines={"inline": INLINE, "ray": RAY},
)
WITHOUT_RAY = replace(PROFILE, engines={"inline": INLINE})


def plan(
    shape: tuple[int, ...] = (4096, 8192),
    norm: str = "l1,linf",
    axes: str | None = None,
    profile: MachineProfile = PROFILE,
    engine: str = "auto",
    workers: int | None = None,
    dtype: str = "float32",
) -> Plan:
    mixed = MixedNorm.parse(norm, axes, ndim=len(shape))
    return make_plan(
        shape, dtype, mixed, Goal(10.0), profile=profile, max_workers=4, engine=engine, workers=workers
    )  # fmt: skip


def test_it_prints_itself_as_a_table() -> None:
    assert str(plan((512, 256, 3, 3), axes="0,1.2.3")).splitlines() == [
        "tensor     512 × 256 × 3 × 3 float32, 4.5 MiB",
        "ball       l1,linf over axes 0,1.2.3, radius 10",
        "engine     inline on 1 worker",
        "why        below break-even: Ray's overhead would outweigh what it frees; memory-bound: 1 worker suffices",
        "blocks     1, the whole tensor",
        "predicted  1.04 ms; ray 10.96 ms on 1 worker; one thread 1.04 ms",
        "",
        "level  norm  axes           fibres       length   tasks     up ms   down ms        ms  share",
        "0      l1    0                   1          512       1      0.00      0.00      0.00     0%",
        "1      linf  1.2.3             512        2,304       1      0.47      0.47      0.94    90%",
        "engine                                                                           0.10    10%",
    ]


def test_it_prints_itself_where_nothing_was_predicted() -> None:
    made = replace(plan((6, 8), workers=2), engine="ray", reason="where the blocks are", predicted={}, serial_ms=0.0)
    assert str(made).splitlines() == [
        "tensor     6 × 8 float32, 192 bytes",
        "ball       l1,linf over axes 0,1, radius 10",
        "engine     ray on 2 workers",
        "why        where the blocks are",
        "blocks     2 along axis 0, of at most 3 × 8, 96 bytes",
        "predicted  nothing",
        "",
        "level  norm  axes           fibres       length   tasks     up ms   down ms        ms  share",
        "0      l1    0                   1            6       1         -         -         -      -",
        "1      linf  1                   6            8       2         -         -         -      -",
    ]


@pytest.mark.parametrize(
    ("shape", "norm", "blocks"),
    [
        ((64, 64), "l1,l1", "1, the whole tensor"),
        ((65537, 65536), "l1,l1", "4 along axis 0, of at most 16385 × 65536, 4 GiB"),
        ((2, 10**7), "l1,l1", "4 parts of each fibre, of at most 2,501,248 elements"),
    ],
)
def test_its_table_tells_the_blocks(shape: tuple[int, ...], norm: str, blocks: str) -> None:
    assert f"blocks     {blocks}" in str(plan(shape, norm, engine="inline")).splitlines()


@pytest.mark.parametrize(
    ("shape", "norm", "engine", "workers", "profile", "chosen", "reason"),
    [
        ((64, 64), "l1,l1", "auto", None, PROFILE, ("inline", 1), "below break-even.*; small: 1 worker suffices"),
        ((65536, 65536), "l1,l1", "auto", None, PROFILE, ("ray", 4), "within 10 %"),
        ((65536, 65536), "l1,linf", "auto", None, PROFILE, ("ray", 1), "within 10 %.*; memory-bound: 1 worker suffi"),
        ((65536, 65536), "l1,l1", "inline", None, PROFILE, ("inline", 4), "^asked$"),
        ((65536, 65536), "l1,l1", "inline", 2, PROFILE, ("inline", 2), "^asked$"),
        ((64, 64), "l1,l1", "ray", None, PROFILE, ("ray", 1), "asked; small: 1 worker suffices"),
        ((2, 2**30), "l1,linf", "inline", None, PROFILE, ("inline", 1), "asked; memory-bound: 1 worker suffices"),
        ((2, 2**30), "l1,l1", "inline", None, PROFILE, ("inline", 4), "^asked$"),
        ((2, 1000), "l1,l1", "inline", None, PROFILE, ("inline", 1), "small"),
        ((65536, 65536), "l1,l1", "auto", None, WITHOUT_RAY, ("inline", 4), "^Ray is off$"),
    ],
)
def test_it_chooses_engine_and_workers_and_says_why(
    shape: tuple[int, ...],
    norm: str,
    engine: str,
    workers: int | None,
    profile: MachineProfile,
    chosen: tuple[str, int],
    reason: str,
) -> None:
    made = plan(shape, norm, engine=engine, workers=workers, profile=profile)
    assert (made.engine, made.workers) == chosen
    assert made.in_parts == (shape == (2, 2**30))
    assert made.in_parts or made.blocks[-1].stop in (1, shape[0])
    assert len(made.blocks) <= made.workers
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(made.reason)


def test_blocks_cover_a_kept_axis_once() -> None:
    blocks = plan((10, 7), "l1,linf", "1,0", workers=3).blocks
    assert [(block.axis, block.start, block.stop) for block in blocks] == [(1, 0, 2), (1, 2, 4), (1, 4, 7)]


@pytest.mark.parametrize(
    ("shape", "norm"),
    [((5, 4), "l1"), ((0, 4), "l1,linf"), ((1, 9), "l1,linf"), ((), "l1"), ((0,), "l2"), ((1,), "l1")],
)
@pytest.mark.parametrize("workers", [None, 3])
def test_what_cannot_be_cut_is_one_block(shape: tuple[int, ...], norm: str, workers: int | None) -> None:
    made = plan(shape, norm, workers=workers)
    assert len(made.blocks) == 1
    assert str(made)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"engine": "gpu"}, "engine: wanted one of auto, inline, ray, got 'gpu'"),
        ({"engine": "ray", "profile": WITHOUT_RAY}, "engine: 'ray' was asked for, but this service runs without Ray"),
        ({"workers": 5}, "workers: wanted 1 to 4, got 5"),
        ({"workers": 0}, "workers: wanted 1 to 4, got 0"),
    ],
)
def test_what_cannot_run_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(**arguments)  # type: ignore[arg-type]


def test_the_prediction_counts_bytes_blocks_and_what_is_moved() -> None:
    made = plan((1000, 2500), "l2,l2", workers=2)  # 10 MB, 1 ms a sweep on one thread; 1,000 fibres
    root_ms = 2 * 8_000 / 10 / MB / 2  # the root's sweeps of 1,000 float64
    moved_ms = 24_000 / 2**20
    assert made.serial_ms == pytest.approx(2.0 + root_ms + 0.1, rel=1e-3)
    assert made.predicted_ms == pytest.approx(
        {"inline": 1.0 + root_ms + 0.2, "ray": 1.0 + root_ms + 10.1 + moved_ms}, rel=1e-3
    )


def test_fibres_are_cut_where_there_are_fewer_than_workers_and_rounds_are_paid_for() -> None:
    whole, cut = plan((2, 10**7), "l1,l1", workers=2), plan((2, 10**7), "l1,l1", workers=4)
    assert not whole.in_parts
    assert [block.part for block in cut.blocks] == [
        (0, 2_499_584), (2_499_584, 4_999_168), (4_999_168, 7_498_752), (7_498_752, 10**7)
    ]  # fmt: skip
    assert cut.predicted["inline"].leaves_ms == pytest.approx(whole.predicted["inline"].leaves_ms / 2, rel=1e-3)
    assert cut.predicted["inline"].overhead_ms == pytest.approx(3 * (0.1 + 3 * 0.1))


def test_blocks_of_unequal_size_take_as_long_as_the_largest() -> None:
    even, uneven = plan((4, 10**7), "l1,l1", workers=2), plan((3, 10**7), "l1,l1", workers=2)
    per_row = [made.predicted["inline"].leaves_ms / made.shape[0] for made in (even, uneven)]
    assert per_row[1] == pytest.approx(per_row[0] * 4 / 3, rel=1e-3)


@pytest.mark.parametrize(("dtype", "ratio"), [("float64", 1.0), ("bfloat16", 2.0)])
def test_other_types_take_their_own_time_and_no_less_than_the_memory(dtype: str, ratio: float) -> None:
    itemsize = {"float64": 8, "bfloat16": 2}[dtype]
    made = plan((1000, 10**8 // itemsize // 1000), "l2,l2", workers=1, dtype=dtype)
    assert made.predicted["inline"].leaves_ms == pytest.approx(20.0 * ratio, rel=1e-3)
