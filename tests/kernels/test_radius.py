"""The radius that leaves a wanted share or number of the outermost groups, and projections that ask for one."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import normtree_kernels as nk

pytestmark = pytest.mark.filterwarnings("ignore::normtree_kernels.NothingLeftWarning")

Y = np.array([[3, -1, 0.5], [1, 2, -0.5], [-2, 0.5, 0.25]])  # columns are the groups
TEXTS = ["l1", "l1,linf", "l1,l1", "l1,l2", "l1,l2,linf", "l1,linf,l1"]

# groups that survive: radius
RADII = {0: 0.0, 1: 1.0, 2: 4.0, 3: 5.5}


def plain(v: NDArray[np.float64], survivors: int) -> float:
    """The closed form, in exact sums."""
    descending = [*sorted(v.tolist(), reverse=True), 0.0]
    return math.fsum(descending[i] - descending[survivors] for i in range(survivors))


def shares_of(total: int) -> st.SearchStrategy[float]:
    return st.sampled_from([k / max(total, 1) for k in range(max(total, 1) + 1)]) | st.floats(0, 1)


def zero_groups(case: Any, x: NDArray[Any]) -> int:
    return int((~case.groups(x).any(axis=1)).sum()) if case.text.count(",") else int((x == 0).sum())


def norms_of(case: Any) -> NDArray[np.float64]:
    """The outermost groups' norms; of one level the elements' magnitudes."""
    return np.asarray(case.aggregates() if case.text.count(",") else np.abs(case.y.astype(np.float64)).reshape(-1))


# --- the closed form ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", RADII)
def test_the_radius_is_the_one_worked_out(dtype: Any, groups: int) -> None:
    y = Y.astype(dtype)
    assert nk.radius_for(y, "l1,linf", axes="1,0", groups=groups) == RADII[groups]
    assert nk.radius_for(y, "l1,linf", axes="1,0", sparsity=(3 - groups) / 3) == RADII[groups]


@pytest.mark.parametrize(
    ("values", "groups", "wanted"),
    [
        ([4, 3, 2, 1], 1, 1),
        ([4, 3, 2, 1], 2, 3),
        ([-1, 4, 2, -3], 3, 6),
        ([4, 4, 2, 1], 1, 0),  # tied with the first to vanish, so it vanishes too
        ([4, 3, 3, 1], 2, 1),
        ([2, 2, 2, 2], 3, 0),
        ([2, 2, 2, 2], 4, 8),
        ([5, 0, 3, 0], 2, 8),  # zeros have vanished already
        ([5, 0, 3, 0], 3, 8),
        ([0, 0], 1, 0),
        ([], 0, 0),
    ],
)
def test_the_radius_of_a_vector_is_the_one_worked_out(values: list[float], groups: int, wanted: float) -> None:
    assert nk.radius_for(np.array(values, np.float64), "l1", groups=groups) == wanted


@pytest.mark.parametrize("text", TEXTS)
@given(data=st.data())
def test_the_radius_is_the_closed_form_less_rounding(cases: Any, text: str, data: st.DataObject) -> None:
    case = data.draw(cases(text=text))
    v = norms_of(case)
    groups = data.draw(st.integers(0, v.size))
    radius = nk.radius_for(case.y, text, axes=case.axes, groups=groups)
    assert radius == pytest.approx(plain(v, groups), rel=1e-12, abs=1e-14 * case.plain_norm() * max(v.size, 1))


# --- who survives ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", TEXTS)
@given(data=st.data())
def test_at_least_the_share_asked_for_vanishes(cases: Any, text: str, data: st.DataObject) -> None:
    case = data.draw(cases(text=text))
    total = norms_of(case).size
    share = data.draw(shares_of(total))
    x = nk.project(case.y, text, axes=case.axes, sparsity=share)
    assert zero_groups(case, x) >= math.floor(share * total)  # a rounded product may be a group too many
    assert total == 0 or zero_groups(case, x) / total >= share


@pytest.mark.parametrize("text", TEXTS)
@given(data=st.data())
def test_at_most_the_number_asked_for_survives(cases: Any, text: str, data: st.DataObject) -> None:
    case = data.draw(cases(text=text))
    total = norms_of(case).size
    groups = data.draw(st.integers(0, total))
    assert total - zero_groups(case, nk.project(case.y, text, axes=case.axes, groups=groups)) <= groups


@pytest.mark.parametrize("text", ["l1", "l1,linf", "l1,l1", "l1,l2", "l1,l2,linf"])
def test_exactly_so_many_survive_without_ties(dtype: Any, text: str) -> None:
    y = np.random.default_rng(3).uniform(0.1, 1, (20, 2, 3)).astype(dtype)
    y *= np.arange(1, 21).reshape(20, 1, 1).astype(dtype)
    axes = "0," + ("1,2" if text.count(",") == 2 else "1.2") if "," in text else None
    y = y if axes else y[:, 0, 0].copy()
    for groups in range(21):
        x = nk.project(y, text, axes=axes, groups=groups)
        assert np.count_nonzero(x.reshape(20, -1).any(axis=1)) == groups


@pytest.mark.parametrize("text", ["l1,linf", "l1,l1", "l1,l2"])
def test_ties_vanish_together(dtype: Any, text: str) -> None:
    y = np.array([[1, 1], [3, 3], [1, 1], [2, 2], [1, 1]], dtype)
    for groups, survivors in ((5, 5), (4, 2), (3, 2), (2, 2), (1, 1), (0, 0)):
        x = nk.project(y, text, groups=groups)
        assert np.count_nonzero(x.any(axis=1)) == survivors


@given(data=st.data())
def test_groups_that_survive_more_sparsity_survive_less(cases: Any, data: st.DataObject) -> None:
    case = data.draw(cases(text=data.draw(st.sampled_from(TEXTS))))
    radii = [nk.radius_for(case.y, case.text, axes=case.axes, sparsity=k / 8) for k in range(9)]
    assert radii == sorted(radii, reverse=True)


@pytest.mark.parametrize(
    ("share", "total", "vanishing"),
    [
        (0.1, 30, 3),
        (0.9, 10, 9),
        (0.3, 10, 3),
        (0.7, 10, 7),
        (1 / 3, 3, 1),
        (2 / 3, 3, 2),
        (0.29, 100, 29),
        (0.57, 100, 57),
        (1 / 49, 49, 1),
        (0.5, 3, 2),
        (0.11, 10, 2),
        (1e-300, 10, 1),
        (math.nextafter(0.5, 1), 4, 3),
        (math.nextafter(1, 0), 4, 4),
        (0.0, 10, 0),
        (1.0, 10, 10),
    ],
)
def test_a_share_is_a_number_of_groups(share: float, total: int, vanishing: int) -> None:
    y = np.arange(1.0, total + 1)
    assert np.count_nonzero(nk.project(y, "l1", sparsity=share) == 0) == vanishing


@pytest.mark.parametrize("share", [np.float32(0.5), np.float64(0.5), 0.5, np.float16(0.5)])
def test_any_real_number_is_a_share(share: Any) -> None:
    assert nk.radius_for(np.array([4.0, 3, 2, 1]), "l1", sparsity=share) == 3


@pytest.mark.parametrize("groups", [2, np.int8(2), np.uint64(2)])
def test_any_integer_is_a_number_of_groups(groups: Any) -> None:
    assert nk.radius_for(np.array([4.0, 3, 2, 1]), "l1", groups=groups) == 3


# --- all and none ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", TEXTS)
@given(data=st.data())
def test_all_groups_are_the_tensor_and_none_are_zeros(cases: Any, bits: Any, text: str, data: st.DataObject) -> None:
    case = data.draw(cases(text=text))
    total = norms_of(case).size
    goals: list[dict[str, Any]] = [{"sparsity": 0}, {"groups": total}, {"sparsity": 1}, {"groups": 0}]
    for wanted in goals[:2]:
        assert nk.radius_for(case.y, text, axes=case.axes, **wanted) == case.norm()
        assert bits(nk.project(case.y, text, axes=case.axes, **wanted)) == bits(case.y)
    for wanted in goals[2:]:
        x = nk.project(case.y, text, axes=case.axes, **wanted)
        assert total == 0 or (nk.radius_for(case.y, text, axes=case.axes, **wanted) == 0 and not x.any())


def test_groups_of_zeros_count_as_vanished(dtype: Any) -> None:
    y = np.zeros((10, 4), dtype)
    y[3], y[7] = 1, 2
    np.testing.assert_array_equal(nk.project(y, "l1,linf", sparsity=0.8), y)
    np.testing.assert_array_equal(nk.project(y, "l1,linf", groups=5), y)
    assert np.count_nonzero(nk.project(y, "l1,linf", sparsity=0.85).any(axis=1)) == 1


# --- project asks for the same ------------------------------------------------------------------------------


@pytest.mark.parametrize("text", TEXTS)
@given(data=st.data())
def test_project_takes_the_radius_it_would_be_told(cases: Any, bits: Any, text: str, data: st.DataObject) -> None:
    case = data.draw(cases(text=text))
    total = norms_of(case).size
    wanted = data.draw(
        st.fixed_dictionaries({"sparsity": shares_of(total)}) | st.fixed_dictionaries({"groups": st.integers(0, total)})
    )
    radius = nk.radius_for(case.y, text, axes=case.axes, **wanted)
    x = nk.project(case.y, text, axes=case.axes, threads=2, **wanted)
    assert bits(x) == bits(replace(case, radius=radius).project())
    assert case.norm(x) <= radius


@pytest.mark.parametrize("text", ["l1", "l1,linf", "l1,l2", "l1,l2,linf"])
def test_the_oracle_takes_the_same(dtype: Any, text: str) -> None:
    y = np.random.default_rng(2).standard_normal((9, 4, 5)).astype(dtype)
    for wanted in ({"sparsity": 0.5}, {"groups": 4}):
        kernels, oracle = (project(y, text, **wanted) for project in (nk.project, nk.reference.project))
        assert np.abs(kernels.astype(np.float64) - oracle.astype(np.float64)).max() <= 0.02


@pytest.mark.parametrize("text", TEXTS)
def test_every_layout_gives_the_same_radius(layout: Any, dtype: Any, text: str) -> None:
    y = np.random.default_rng(2).standard_normal((9, 4, 5)).astype(dtype)
    assert nk.radius_for(layout(y), text, sparsity=0.5) == nk.radius_for(y, text, sparsity=0.5)


# --- what is refused ------------------------------------------------------------------------------------------

WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({}, ValueError, "^sparsity: exactly one of sparsity and groups"),
    ({"sparsity": 0.5, "groups": 1}, ValueError, "^sparsity: exactly one of sparsity and groups"),
    ({"sparsity": -0.1}, ValueError, "^sparsity: wanted a share from 0 to 1, got -0.1"),
    ({"sparsity": 1.01}, ValueError, "^sparsity: wanted a share from 0 to 1, got 1.01"),
    ({"sparsity": math.nan}, ValueError, "^sparsity: wanted a share from 0 to 1, got nan"),
    ({"sparsity": 10**400}, ValueError, "^sparsity: "),
    ({"sparsity": True}, TypeError, "^sparsity: .*got bool"),
    ({"sparsity": "0.5"}, TypeError, "^sparsity: .*got str"),
    ({"sparsity": 0.5j}, TypeError, "^sparsity: .*got complex"),
    ({"groups": -1}, ValueError, "^groups: must be >= 0, got -1"),
    ({"groups": 4}, ValueError, "^groups: wanted 0 to 3, .*got 4"),
    ({"groups": 1.0}, TypeError, "^groups: .*got float"),
    ({"groups": True}, TypeError, "^groups: .*got bool"),
    ({"groups": "1"}, TypeError, "^groups: .*got str"),
]


@pytest.mark.parametrize(("wanted", "error", "message"), WRONG, ids=[str(wanted) for wanted, *_ in WRONG])
def test_a_wrong_share_or_number_is_refused_by_its_name(
    wanted: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        nk.radius_for(Y, "l1,linf", **wanted)


@pytest.mark.parametrize("text", ["l2", "linf", "l2,l1", "linf,l1", "linf,l1,l2"])
@pytest.mark.parametrize("wanted", [{"sparsity": 0.5}, {"groups": 1}], ids=["sparsity", "groups"])
def test_only_an_outermost_l1_has_such_a_radius(text: str, wanted: dict[str, Any]) -> None:
    y = np.ones((2, 2, 2))
    for function in (nk.radius_for, nk.project):
        with pytest.raises(ValueError, match=rf"^{next(iter(wanted))}: .*outermost l1.* got {text.split(',')[0]}$"):
            function(y, text, **wanted)


def test_other_wrong_arguments_are_refused_as_by_project(layout: Any) -> None:
    y = Y.copy()
    y[2, 1] = math.inf
    with pytest.raises(ValueError, match=r"^y: element \[2, 1\] is inf;"):
        nk.radius_for(layout(y), "l1,linf", groups=1)
    with pytest.raises(ValueError, match=r"^axes: "):
        nk.radius_for(Y, "l1,linf", axes="0,0", groups=1)
    with pytest.raises(TypeError, match=r"^y: .*got int64"):
        nk.radius_for(Y.astype(np.int64), "l1,linf", groups=1)
    with pytest.raises(ValueError, match=r"^y: .*overflows"):
        nk.radius_for(np.full((2, 2), 1e308), "l1,linf", groups=1)


# --- ties -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["l1", "l1,linf", "l1,l2"])
def test_it_warns_where_ties_leave_nothing_of_what_was_asked(text: str) -> None:
    tied = np.ones((4, 3))
    goals: list[dict[str, Any]] = [{"groups": 3}, {"sparsity": 0.25}]
    for goal in goals:
        wanted = 9 if text == "l1" and "sparsity" in goal else 3
        message = f"no group is left of the {wanted} asked for: the largest are tied, and ties share one fate"
        with pytest.warns(nk.NothingLeftWarning, match=message):
            assert not nk.project(tied, text, **goal).any()
        with pytest.warns(nk.NothingLeftWarning, match=message):
            assert nk.radius_for(tied, text, **goal) == 0.0


@pytest.mark.filterwarnings("error::normtree_kernels.NothingLeftWarning")
def test_it_warns_of_nothing_else() -> None:
    nk.project(np.zeros((4, 3)), "l1,linf", groups=2)
    nk.project(np.ones((4, 3)), "l1,linf", groups=0)
    nk.project(np.ones((4, 3)), "l1,linf", groups=4)
    nk.project(np.ones((4, 3)), "l1,linf", 0.0)
    some = nk.project(np.array([[3.0], [2.0], [2.0]]), "l1,linf", groups=2)
    assert some.ravel().tolist() == [1.0, 0.0, 0.0]
