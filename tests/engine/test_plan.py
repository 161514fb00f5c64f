"""Plans: from shapes alone, with a reason, and readable."""

from types import MappingProxyType

import pytest

from normtree.engine.plan import Plan, make_plan
from normtree.engine.profile import MachineProfile
from normtree_kernels import MixedNorm
from normtree_kernels.goal import Goal

RATES = MappingProxyType({"l1": 2.0, "l2": 10.0, "linf": 10.0})
PROFILE = MachineProfile(10.0, RATES, RATES, thread_overhead_ms=0.5, ray_overhead_ms=10.0)
WITHOUT_RAY = MachineProfile(10.0, RATES, RATES, thread_overhead_ms=0.5, ray_overhead_ms=None)


def plan(
    shape: tuple[int, ...] = (4096, 8192),
    norm: str = "l1,linf",
    axes: str | None = None,
    profile: MachineProfile = PROFILE,
    engine: str = "auto",
    workers: int | None = None,
) -> Plan:
    mixed = MixedNorm.parse(norm, axes, ndim=len(shape))
    return make_plan(
        shape, "float32", mixed, Goal(10.0), profile=profile, max_workers=4, engine=engine, workers=workers
    )  # fmt: skip


def test_it_prints_itself_as_a_table() -> None:
    assert str(plan((64, 32, 3, 3), axes="0,1.2.3")).splitlines() == [
        "tensor     64 × 32 × 3 × 3 float32, 73,728 bytes",
        "ball       l1,linf over axes 0,1.2.3, radius 10",
        "engine     inline, 4 workers: below break-even: Ray's overhead would outweigh what it frees",
        "predicted  inline 0.5 ms, ray 10.0 ms; one thread 0.0 ms",
        "",
        "level norm  axes              fibres      length  blocks",
        "0     l1    0                      1          64       1",
        "1     linf  1.2.3                 64         288       4",
    ]


@pytest.mark.parametrize(
    ("shape", "engine", "profile", "chosen", "reason"),
    [
        ((64, 64), "auto", PROFILE, "inline", "below break-even"),
        ((65536, 65536), "auto", PROFILE, "ray", "within 10 %"),
        ((65536, 65536), "inline", PROFILE, "inline", "asked"),
        ((64, 64), "ray", PROFILE, "ray", "asked"),
        ((65536, 65536), "auto", WITHOUT_RAY, "inline", "Ray is off"),
    ],
)
def test_it_chooses_an_engine_and_says_why(
    shape: tuple[int, ...], engine: str, profile: MachineProfile, chosen: str, reason: str
) -> None:
    made = plan(shape, engine=engine, profile=profile)
    assert made.engine == chosen
    assert reason in made.reason


def test_blocks_cover_a_kept_axis_once() -> None:
    blocks = plan((10, 7), "l1,linf", "1,0", workers=3).blocks
    assert [(block.axis, block.start, block.stop) for block in blocks] == [(1, 0, 2), (1, 2, 4), (1, 4, 7)]


@pytest.mark.parametrize(("shape", "norm"), [((5, 4), "l1"), ((0, 4), "l1,linf"), ((1, 9), "l1,linf")])
def test_what_cannot_be_cut_is_one_block(shape: tuple[int, ...], norm: str) -> None:
    assert len(plan(shape, norm).blocks) == 1


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


def test_the_prediction_counts_bytes_and_overhead() -> None:
    made = plan((1000, 2500), workers=2)
    assert made.serial_ms == pytest.approx(2.0)
    assert made.predicted_ms == pytest.approx({"inline": 1.5, "ray": 11.0})
