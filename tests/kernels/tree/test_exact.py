"""The Euclidean projection, `exact=True`: the nearest point of the ball, and what only that point keeps."""

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_dtypes import finfo
from numpy.typing import NDArray

import normtree_kernels as nk
from normtree_kernels.compiled.lanes import CHUNK
from normtree_kernels.sweeps.fibres import PANEL_FIBRES

Y = np.array([[3, -1, 0.5], [1, 2, -0.5], [-2, 0.5, 0.25]])  # columns are the groups
OWN = ["l1,linf", "l1,linf,linf"]  # norms whose Euclidean projection has an algorithm of its own
SAME = [
    "l1", "l2", "linf", "l1,l2", "l1,l2,l2", "l2,l2", "linf,l1", "linf,l2", "linf,linf", "linf,linf,l1", "linf,l1,l2",
    "linf,linf,linf,l2",
]  # fmt: skip
UNKNOWN = [
    "l1,l1", "l2,l1", "l2,linf", "l1,l1,linf", "l1,linf,l1", "l1,l2,linf", "l1,linf,l2", "linf,l1,linf", "linf,l1,l1",
    "linf,l2,l1",
]  # fmt: skip

# radius: the groups' largest magnitudes, squared distance
VECTORS: dict[float, tuple[list[float], float]] = {
    1: ([11 / 12, 1 / 12, 0], 10.770833),
    2: ([1.5, 0.5, 0], 5.5625),
    3: ([1.96875, 0.96875, 0.0625], 2.546875),
    4: ([2.392857, 1.392857, 0.214286], 0.901786),
    5.5: ([3, 2, 0.5], 0),
}

# what to draw from, share of zero columns in %: multi-level, Euclidean
DISTRIBUTIONS: dict[str, tuple[Any, int, int]] = {
    "normal": (lambda rng, shape: rng.standard_normal(shape), 54, 0),
    "uniform": (lambda rng, shape: rng.random(shape), 0, 1),
    "heavy": (lambda rng, shape: rng.standard_t(3, shape), 93, 0),
}


def wide(x: NDArray[Any]) -> NDArray[np.float64]:
    return x.astype(np.float64)


def distance(a: NDArray[Any], b: NDArray[Any]) -> float:
    return float(np.linalg.norm(wide(a) - wide(b)))


def scaled(case: Any) -> Any:
    """Bring elements near one, so that their squares are in range."""
    largest = np.abs(case.y).max(initial=0.0) or 1.0
    return replace(case, y=np.asarray(case.y / largest), radius=case.radius / largest)


# --- the point itself -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("project", [nk.project, nk.reference.project], ids=["kernels", "oracle"])
@pytest.mark.parametrize("radius", VECTORS)
def test_projection_is_the_one_worked_out(project: Any, dtype: Any, radius: float) -> None:
    levels, squared = VECTORS[radius]
    x = project(Y.astype(dtype), "l1,linf", radius, axes="1,0", exact=True)
    assert x.dtype == dtype
    eps = float(finfo(dtype).eps)
    np.testing.assert_allclose(wide(x), np.sign(Y) * np.minimum(np.abs(Y), levels), rtol=4 * eps, atol=1e-6)
    assert distance(Y, x) ** 2 == pytest.approx(squared, abs=2e-6 + 40 * eps)


def test_the_first_vector_to_the_last_digit() -> None:
    x = nk.project(Y, "l1,linf", 1.0, axes="1,0", exact=True)
    np.testing.assert_allclose(x * 12, [[11, -1, 0], [11, 1, 0], [-11, 1, 0]], rtol=1e-14)


@pytest.mark.parametrize("text", OWN)
@given(data=st.data())
def test_project_equals_the_oracle(cases: Any, text: str, data: st.DataObject) -> None:
    case = data.draw(cases(text=text, max_rank=2))
    x = case.project(exact=True)
    wanted = nk.reference.project(case.y, text, case.radius, axes=case.axes, exact=True)
    assert (x.shape, x.dtype) == (case.y.shape, case.y.dtype)
    info = finfo(x.dtype)
    step = (float(info.eps) + 1e-13) * np.abs(wide(wanted)) + float(info.smallest_subnormal)
    close = 1e-13 * float(np.abs(wide(case.y)).sum()) + 2 * step
    np.testing.assert_array_less(np.abs(wide(x) - wide(wanted)), close)


@pytest.mark.parametrize("radius", [1e-6, 1.0, 30.0])
@pytest.mark.parametrize("size", [1, 70, CHUNK + 1])
def test_long_groups_equal_the_oracle(dtype: Any, size: int, radius: float) -> None:
    y = np.random.default_rng(size).standard_t(3, (11, size)).astype(dtype)
    x, wanted = (f(y, "l1,linf", radius, exact=True) for f in (nk.project, nk.reference.project))
    info = finfo(dtype)
    rtol, atol = 2 * float(info.eps) + 1e-12, 1e-13 + float(info.smallest_subnormal)
    np.testing.assert_allclose(wide(x), wide(wanted), rtol=rtol, atol=atol)


@pytest.mark.parametrize("text", OWN)
@given(data=st.data())
def test_the_duality_gap_is_closed(cases: Any, text: str, data: st.DataObject) -> None:
    case = data.draw(cases(text=text))
    x = case.project(exact=True)
    gap = nk.certify(case.y, x, text, case.radius, axes=case.axes).duality_gap
    # Written elements are rounded by a step of theirs, and a subnormal norm is itself but a few steps.
    info, norm = finfo(case.y.dtype), case.norm() or 1.0
    step = min(float(info.eps) + float(info.smallest_subnormal) / norm, 1.0)
    assert abs(gap) <= (1e-13 + step) * max(case.y.size, 1)


@pytest.mark.parametrize("text", ["l1,linf", "linf,l1", "linf,l1,l2", "l2,l2", "linf,linf,l2"])
@given(data=st.data())
def test_no_feasible_point_is_nearer(cases: Any, text: str, data: st.DataObject) -> None:
    case = scaled(data.draw(cases(np.float64, text=text)))
    x = case.project(exact=True)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    z = case.project(y=x + 10.0 ** rng.uniform(-6, 1) * rng.standard_normal(x.shape))
    assert np.vdot(case.y - x, z - x) <= 1e-12 * max(case.norm(), 1.0) ** 2
    assert distance(case.y, x) <= distance(case.y, z) * (1 + 1e-12) + 1e-14


# --- against the multi-level projection ---------------------------------------------------------------------------


@given(data=st.data())
def test_the_multi_level_point_is_farther_by_a_bounded_factor(cases: Any, data: st.DataObject) -> None:
    case = scaled(data.draw(cases(np.float64, text="l1,linf", min_side=1)))
    nearest, other = distance(case.y, case.project(exact=True)), distance(case.y, case.project())
    near = 1e-13 * float(np.abs(case.y).sum())
    assert nearest <= other + near
    assert other <= math.sqrt(case.groups(case.y).shape[1]) * (nearest + near)


@pytest.mark.parametrize("radius", [1.0, 3.0, 4.0])
def test_only_the_nearest_point_closes_the_gap(radius: float) -> None:
    exact, other = (nk.project(Y, "l1,linf", radius, axes="1,0", exact=exact) for exact in (True, False))
    gaps = [nk.certify(Y, x, "l1,linf", radius, axes="1,0").duality_gap for x in (exact, other)]
    assert abs(gaps[0]) < 1e-15
    assert gaps[1] > 1e-3
    assert distance(Y, exact) < distance(Y, other)


@pytest.mark.parametrize("key", DISTRIBUTIONS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_which_is_sparser_depends_on_the_data(key: str, seed: int) -> None:
    draw, multilevel, exact = DISTRIBUTIONS[key]
    y = draw(np.random.default_rng(seed), (200, 300))
    radius = 0.05 * nk.norm(y, "l1,linf", axes="1,0")
    zero = [
        100 * np.mean(~nk.project(y, "l1,linf", radius, axes="1,0", exact=way).any(axis=0)) for way in (False, True)
    ]
    assert zero[0] == pytest.approx(multilevel, abs=5)
    assert zero[1] == pytest.approx(exact, abs=1.5)


@pytest.mark.parametrize("text", SAME)
@given(data=st.data())
def test_other_norms_known_are_projected_alike(cases: Any, bits: Any, text: str, data: st.DataObject) -> None:
    case = data.draw(cases(text=text))
    assert bits(case.project(exact=True)) == bits(case.project())


@given(data=st.data())
def test_linf_levels_merge(cases: Any, bits: Any, data: st.DataObject) -> None:
    case = replace(data.draw(cases(text="l1,linf,linf", min_rank=3)), axes=None)
    others = ".".join(map(str, range(1, case.y.ndim)))
    merged = replace(case, text="l1,linf", axes=f"0,{others}")
    assert bits(case.project(exact=True)) == bits(merged.project(exact=True))


# --- what every projection keeps ------------------------------------------------------------------------------


@pytest.mark.parametrize("text", OWN)
@given(data=st.data())
def test_it_lies_in_the_ball_and_projecting_twice_changes_no_bit(
    cases: Any, bits: Any, text: str, data: st.DataObject
) -> None:
    case = data.draw(cases(text=text))
    x = case.project(exact=True)
    assert case.norm(x) <= case.radius
    if case.radius < case.norm():  # else the tensor is returned, and its exact norm may be an ulp above
        terms = np.abs(wide(case.groups(x))).max(axis=1, initial=0.0)
        assert sum(map(Fraction, terms.tolist())) <= Fraction(case.radius)
    assert np.all(np.abs(x) <= np.abs(case.y))
    assert np.all(np.signbit(x) == np.signbit(case.y), where=x != 0)
    assert bits(case.project(y=x, exact=True)) == bits(x)
    assert bits(case.project(y=x)) == bits(x)


@pytest.mark.parametrize("text", OWN)
@given(data=st.data())
def test_it_reaches_the_sphere(cases: Any, text: str, data: st.DataObject) -> None:
    case = data.draw(cases(text=text))
    info = finfo(case.y.dtype)
    slack = (1e-13 + 2.0**-50 * case.y.size + float(info.eps)) * case.norm() + float(
        info.smallest_subnormal
    ) * case.y.size
    assert case.norm(case.project(exact=True)) >= min(case.radius, case.norm()) - slack


@pytest.mark.parametrize("text", OWN)
@given(data=st.data())
def test_inside_the_ball_nothing_changes_bit_for_bit(cases: Any, bits: Any, text: str, data: st.DataObject) -> None:
    case = data.draw(cases(text=text))
    radius = case.norm() * data.draw(st.sampled_from([1.0, 1.0 + 2**-52, 2.0]))
    assert bits(case.project(radius, exact=True)) == bits(case.y)
    assert not case.project(0.0, exact=True).any()


@given(data=st.data())
def test_projections_are_no_further_apart_than_their_sources(cases: Any, data: st.DataObject) -> None:
    case = scaled(data.draw(cases(np.float64, text="l1,linf")))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    other = case.y + 10.0 ** rng.uniform(-3, 1) * rng.standard_normal(case.y.shape)
    apart = distance(case.project(exact=True), case.project(y=other, exact=True))
    assert apart <= distance(case.y, other) * (1 + 1e-9) + 1e-12


@given(data=st.data())
def test_scaling_by_a_power_of_two_scales_every_bit(cases: Any, bits: Any, data: st.DataObject) -> None:
    case = data.draw(cases(np.float64, text="l1,linf"))
    c = 2.0 ** data.draw(st.integers(-30, 30))
    assert bits(case.project(c * case.radius, y=case.y * c, exact=True)) == bits(case.project(exact=True) * c)


# --- the same bits --------------------------------------------------------------------------------------------


@given(data=st.data())
def test_out_and_threads_change_nothing(cases: Any, bits: Any, data: st.DataObject) -> None:
    case = data.draw(cases(text=data.draw(st.sampled_from(OWN))))
    out = np.empty_like(case.y, subok=False)
    assert case.project(out=out, threads=data.draw(st.integers(1, 3)), exact=True) is out
    assert bits(out) == bits(case.project(exact=True))


@pytest.mark.parametrize("axes", ["0,1.2", "1,0.2", "2,0.1", "2.0,1", "0.1.2,", ",0.1.2"])
def test_every_layout_and_number_of_threads_gives_the_same_bits(layout: Any, bits: Any, dtype: Any, axes: str) -> None:
    y = np.random.default_rng(5).standard_t(3, (5, 6, 70)).astype(dtype)
    radius = nk.norm(y, "l1,linf", axes=axes) * 0.4
    wanted = bits(nk.project(y, "l1,linf", radius, axes=axes, exact=True))
    for threads in (1, 2, 3):
        assert bits(nk.project(layout(y), "l1,linf", radius, axes=axes, exact=True, threads=threads)) == wanted


@pytest.mark.parametrize("shape", [(7, CHUNK - 1), (7, CHUNK), (7, 2 * CHUNK + 1), (3, 5000), (PANEL_FIBRES + 3, 3)])
def test_rows_columns_and_packed_groups_give_the_same_bits(bits: Any, dtype: Any, shape: tuple[int, int]) -> None:
    y = np.random.default_rng(5).standard_t(3, shape).astype(dtype)
    radius = nk.norm(y, "l1,linf") * 0.1
    wanted = bits(nk.project(y, "l1,linf", radius, exact=True))
    for lain in (np.asfortranarray(y), y[:, ::-1].copy()[:, ::-1], y[::-1].copy()[::-1]):
        assert bits(nk.project(lain, "l1,linf", radius, exact=True, threads=2)) == wanted


# --- edges ----------------------------------------------------------------------------------------------------

SMALLEST = 5e-324
EDGES: dict[str, tuple[Any, float]] = {
    "an ulp inside, one group far above the others": ([[5, 0]] + [[0.1, 0]] * 6, math.nextafter(5.6, 0)),
    "an ulp inside, ties": ([[0.1, 0.1]] * 10, math.nextafter(1.0, 0) - 2**-53),
    "radius lost in rounding": ([[1, 0.5]], 1e-300),
    "radius lost in rounding, two groups": ([[1, 0.5], [0.25, 1]], 1e-17),
    "largest": ([[1.2e308, 0.1]], 1e308),
    "subnormal": ([[2e-310, 1e-311], [1e-311, 0]], 1e-310),
    "smallest": ([[2 * SMALLEST, SMALLEST], [SMALLEST, SMALLEST]], SMALLEST),
    "tiny": ([[1e-200, -3e-200], [2e-200, 0]], 1e-200),
    "huge": ([[1e200, -3e200], [2e200, 0]], 1e200),
    "far apart": ([[1e200, 1], [1e-200, 1]], 1e100),
    "zeros": ([[0, 0], [0, 0]], 1.0),
    "zero groups": ([[0, 0], [3, 1], [0, 0]], 1.0),
}


@pytest.mark.timeout(60, method="thread")  # a signal would wait for a loop that never ends
@pytest.mark.parametrize("key", EDGES)
def test_edges_end_in_the_ball_and_near_the_oracle(bits: Any, key: str) -> None:
    values, radius = EDGES[key]
    y = np.array(values, np.float64)
    x = nk.project(y, "l1,linf", radius, exact=True)
    assert nk.norm(x, "l1,linf") <= radius
    wanted = nk.reference.project(y, "l1,linf", radius, exact=True)
    np.testing.assert_allclose(x, wanted, rtol=1e-13, atol=np.abs(y).max() * 1e-15)
    assert bits(nk.project(x, "l1,linf", radius, exact=True)) == bits(x)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_empty_tensors_stay_empty(dtype: Any, shape: tuple[int, ...]) -> None:
    x = nk.project(np.empty(shape, dtype), "l1,linf", 1.0, exact=True)
    assert (x.shape, x.dtype) == (shape, dtype)


def test_sums_that_overflow_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^y: .*overflows"):
        nk.project(np.full((1, 3), 1e308), "l1,linf", 1.0, exact=True)


# --- what is refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("project", [nk.project, nk.reference.project], ids=["kernels", "oracle"])
@pytest.mark.parametrize("text", UNKNOWN)
def test_norms_without_a_known_way_are_refused(project: Any, text: str) -> None:
    with pytest.raises(ValueError, match=rf"^exact: .*{text}"):
        project(np.ones((2, 2, 2)), text, 1.0, exact=True)


@pytest.mark.parametrize("wanted", [{"sparsity": 0.5}, {"groups": 1}], ids=["sparsity", "groups"])
def test_a_share_of_groups_is_refused_where_no_closed_form_is_known(wanted: Any) -> None:
    with pytest.raises(ValueError, match=r"^exact: .*give a radius$"):
        nk.project(Y, "l1,linf", **wanted, exact=True)


@pytest.mark.parametrize("wanted", [{"sparsity": 0.5}, {"groups": 1}], ids=["sparsity", "groups"])
def test_a_share_of_groups_is_taken_where_one_is(bits: Any, wanted: Any) -> None:
    assert bits(nk.project(Y, "l1,l2", **wanted, exact=True)) == bits(nk.project(Y, "l1,l2", **wanted))


def test_an_element_that_is_not_finite_is_named(layout: Any, dtype: Any) -> None:
    y = Y.astype(dtype)
    y[1, 2] = math.nan
    with pytest.raises(ValueError, match=r"^y: element \[1, 2\] is nan;"):
        nk.project(layout(y), "l1,linf", 1.0, exact=True)
