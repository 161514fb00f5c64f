"""Mixed norms: how text and axes become levels, and what is refused."""

from typing import Any

import pytest

from normtree_kernels import Level, MixedNorm
from normtree_kernels.norms.mixed_norm import MAX_LEVELS, NORMS

DEEPEST = ",".join(["l1"] * MAX_LEVELS)

# text, axes, number of axes -> the levels' axes, outer to inner
BOUND: list[tuple[str, Any, int, list[tuple[int, ...]]]] = [
    ("l1", None, 0, [()]),
    ("l1", None, 1, [(0,)]),
    ("l1", None, 3, [(0, 1, 2)]),
    ("l1,linf", None, 2, [(0,), (1,)]),
    ("l1,linf", None, 4, [(0,), (1, 2, 3)]),
    ("l1,l2,linf", None, 4, [(0,), (1,), (2, 3)]),
    ("l1,linf", "1,0", 2, [(1,), (0,)]),
    ("l1,linf", "0,1.2.3", 4, [(0,), (1, 2, 3)]),
    ("l1,linf", "3.1,0.2", 4, [(1, 3), (0, 2)]),
    ("l1,linf", " 1 , 0 ", 2, [(1,), (0,)]),
    ("l1,linf", "-1,0", 2, [(1,), (0,)]),
    ("l1,linf", "0.-1,1", 3, [(0, 2), (1,)]),
    ("l1,linf", "0,", 1, [(0,), ()]),
    ("l1,linf", ",0", 1, [(), (0,)]),
    ("l1,linf", ",", 0, [(), ()]),
    ("l1,l2,linf", "1,,0", 2, [(1,), (), (0,)]),
    ("l1", "", 0, [()]),
    ("l1,linf", (1, 0), 2, [(1,), (0,)]),
    ("l1,linf", [1, 0], 2, [(1,), (0,)]),
    ("l1,linf", (0, (1, 2, 3)), 4, [(0,), (1, 2, 3)]),
    ("l1,linf", ((0,), (3, 1, 2)), 4, [(0,), (1, 2, 3)]),
    ("l1,linf", (-1, (-3, -2)), 3, [(2,), (0, 1)]),
    ("l1,linf", ((0,), ()), 1, [(0,), ()]),
    (DEEPEST, None, MAX_LEVELS, [(axis,) for axis in range(MAX_LEVELS)]),
]

# text, axes, number of axes -> the error, how its message begins, and what else it says
REFUSED: list[tuple[Any, Any, int, type[Exception], str]] = [
    ("l3", None, 2, ValueError, r"norm: .*'l3'.*l1, l2, linf"),
    ("", None, 2, ValueError, r"norm: .*''"),
    ("l1;linf", None, 2, ValueError, r"norm: .*'l1;linf'"),
    ("l1,,linf", None, 3, ValueError, r"norm: .*''"),
    ("L1", None, 1, ValueError, r"norm: .*'L1'"),
    (DEEPEST + ",l1", None, MAX_LEVELS + 1, ValueError, r"norm: .*8 levels.*9"),
    (None, None, 2, TypeError, r"norm: .*NoneType"),
    (1, None, 2, TypeError, r"norm: .*int"),
    (b"l1", None, 2, TypeError, r"norm: .*bytes"),
    (("l1", "linf"), None, 2, TypeError, r"norm: .*tuple"),
    ("l1,linf", None, 1, ValueError, r"norm: .*2 levels.*1 axes.*'0,'"),
    ("l1,linf", None, 0, ValueError, r"norm: .*2 levels.*0 axes"),
    ("l1,linf", "0", 2, ValueError, r"axes: .*2 levels.*'0'"),
    ("l1", "0,1", 2, ValueError, r"axes: .*1 levels.*'0,1'"),
    ("l1,linf", "0,0", 2, ValueError, r"axes: .*exactly one.*'0,0'"),
    ("l1,linf", "0,-2", 2, ValueError, r"axes: .*exactly one.*'0,-2'"),
    ("l1,linf", "0.0,1", 2, ValueError, r"axes: .*exactly one"),
    ("l1,linf", "0,1", 3, ValueError, r"axes: .*3 axes.*exactly one.*'0,1'"),
    ("l1,linf", "0,", 2, ValueError, r"axes: .*exactly one"),
    ("l1,linf", "0,2", 2, ValueError, r"axes: .*2 is out of range.*2 axes"),
    ("l1,linf", "-3,0", 2, ValueError, r"axes: .*-3 is out of range"),
    ("l1", "0", 0, ValueError, r"axes: .*out of range.*0 axes"),
    ("l1,linf", "0,x", 2, ValueError, r"axes: .*'x'"),
    ("l1,linf", "0,1.5", 2, ValueError, r"axes: .*out of range"),
    ("l1,linf", "(0),1", 2, ValueError, r"axes: .*'\(0\)'"),
    ("l1,linf", (0, 1.0), 2, TypeError, r"axes: .*1\.0"),
    ("l1,linf", (0, True), 2, TypeError, r"axes: .*True"),
    ("l1,linf", (0, None), 2, TypeError, r"axes: .*None"),
    ("l1,linf", 1, 2, TypeError, r"axes: .*int"),
    ("l1,linf", {0: 1}, 2, TypeError, r"axes: .*dict"),
]

BAD_LEVELS: list[tuple[str, Any, str]] = [
    ("l0", (0,), "norm: .*'l0'"),
    ("l1", (1, 0), "axes: .*ascending"),
    ("l1", (0, 0), "axes: .*distinct"),
    ("l1", (-1,), "axes: .*>= 0"),
]

BAD_NORMS: list[tuple[tuple[Level, ...], str]] = [
    ((), "norm: .*1 to 8 levels, got 0"),
    ((Level("l1", ()),) * (MAX_LEVELS + 1), "norm: .*got 9"),
    ((Level("l1", (0,)), Level("l1", (0,))), "axes: .*exactly one"),
    ((Level("l1", (0,)), Level("l1", (2,))), "axes: .*exactly one"),
]


@pytest.mark.parametrize(("text", "axes", "ndim", "wanted"), BOUND)
def test_parse_binds_levels_to_axes(text: str, axes: Any, ndim: int, wanted: list[tuple[int, ...]]) -> None:
    levels = MixedNorm.parse(text, axes, ndim=ndim).levels
    assert [level.norm.name for level in levels] == text.split(",")
    assert [level.axes for level in levels] == wanted


@pytest.mark.parametrize(("text", "axes", "ndim", "wanted"), BOUND)
def test_text_and_axes_text_round_trip(text: str, axes: Any, ndim: int, wanted: list[tuple[int, ...]]) -> None:
    mixed = MixedNorm.parse(text, axes, ndim=ndim)
    assert mixed.text == text
    assert MixedNorm.parse(mixed.text, mixed.axes_text, ndim=ndim) == mixed


@pytest.mark.parametrize(("text", "axes", "ndim", "error", "message"), REFUSED)
def test_parse_refuses(text: Any, axes: Any, ndim: int, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{message}"):
        MixedNorm.parse(text, axes, ndim=ndim)


@pytest.mark.parametrize(("norm", "axes", "message"), BAD_LEVELS)
def test_a_level_that_cannot_be_is_never_made(norm: str, axes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        Level(norm, axes)


@pytest.mark.parametrize(("levels", "message"), BAD_NORMS)
def test_a_norm_that_cannot_be_is_never_made(levels: tuple[Level, ...], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        MixedNorm(levels)


def test_spaces_around_names_do_not_count() -> None:
    assert MixedNorm.parse(" l1 , linf ", ndim=2) == MixedNorm.parse("l1,linf", ndim=2)


def test_a_bound_norm_is_taken_as_it_is() -> None:
    mixed = MixedNorm.parse("l1,linf", "1,0", ndim=2)
    assert MixedNorm.parse(mixed, ndim=2) == mixed


def test_a_bound_norm_refuses_axes() -> None:
    mixed = MixedNorm.parse("l1,linf", "1,0", ndim=2)
    with pytest.raises(ValueError, match=r"^axes: .*already"):
        MixedNorm.parse(mixed, "1,0", ndim=2)


def test_a_bound_norm_refuses_a_tensor_of_other_rank() -> None:
    mixed = MixedNorm.parse("l1,linf", "1,0", ndim=2)
    with pytest.raises(ValueError, match=r"^norm: .*2 axes.*3"):
        MixedNorm.parse(mixed, ndim=3)


def test_properties_say_what_is_kept_and_aggregated() -> None:
    mixed = MixedNorm.parse("l1,l2,linf", "2,0,1.3", ndim=4)
    assert mixed.ndim == 4
    assert mixed.inner == Level("linf", (1, 3))
    assert mixed.kept_axes == (2, 0)
    assert mixed.order == (2, 0, 1, 3)
    assert str(mixed) == "l1,l2,linf over axes 2,0,1.3"


def test_norms_are_values() -> None:
    one, other = (MixedNorm.parse("l1,linf", axes, ndim=2) for axes in ("1,0", (1, (0,))))
    assert one == other
    assert len({one, other}) == 1


def test_the_registry_names_each_norm_once() -> None:
    assert len(set(NORMS)) == len(NORMS)
