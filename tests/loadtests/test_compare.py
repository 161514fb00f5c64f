"""Two runs differ only where their rounds do."""

import pytest
from compare import compare, differences

TIMING = {"engine": "ray", "workers": 2, "norm": "l1,linf"}


def run(*walls_ms: float, nbytes: int = 64, **machine: object) -> dict[str, object]:
    point = {"scaling": "strong", "nbytes": nbytes, "walls_ms": walls_ms, "serials_ms": walls_ms, "floor_ms": 1.0,
             "predicted_ms": 1.0, "timing": TIMING}  # fmt: skip
    return {"machine": {"when": "now", "load_average": [1], "numpy": "2", **machine}, "points": [point]}


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ((10, 11, 12), (5, 6, 7), "faster"),
        ((5, 6, 7), (10, 11, 12), "slower"),
        ((10, 11, 12), (10, 10.5, 11), ""),
        ((5, 10, 15), (4, 8, 14), ""),  # their middle halves overlap
    ],
)
def test_verdict(before: tuple[float, ...], after: tuple[float, ...], verdict: str) -> None:
    (change,) = compare(run(*before), run(*after), least=1.1)
    assert change.verdict == verdict
    assert change.ratio == pytest.approx(before[1] / after[1])


def test_nothing_in_common() -> None:
    with pytest.raises(ValueError, match="no point in common"):
        compare(run(1, 2, 3), run(1, 2, 3, nbytes=128), least=1.1)


def test_machines_that_differ_are_named() -> None:
    assert differences(run(1, when="then"), run(1, load_average=[9])) == []
    assert differences(run(1), run(1, numpy="3")) == ["numpy: 2 before, 3 after"]
