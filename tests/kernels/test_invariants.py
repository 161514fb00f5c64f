"""What every multi-level projection keeps, from feasibility to the edges; and which norms keep more."""

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, reject
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from ml_dtypes import bfloat16, finfo
from numpy.typing import NDArray

import normtree_kernels as nk
from normtree_kernels.norms.linf import LINF
from normtree_kernels.norms.mixed_norm import NORMS

L2_LOSS = 2e-13  # what up to four l2 levels may stay inside their balls, relative


def wide(x: NDArray[Any]) -> NDArray[np.float64]:
    return x.astype(np.float64)


def slack(case: Any) -> float:
    """Bound how far rounding may move a norm or an element: relative to the norm, and by subnormal steps."""
    info = finfo(case.y.dtype)
    return (1e-14 + L2_LOSS + float(info.eps)) * case.plain_norm() + float(info.smallest_subnormal) * case.y.size


# --- feasible, tight, the identity inside -------------------------------------------------------------------


@given(data=st.data())
def test_the_projection_lies_in_the_ball(cases: Any, data: st.DataObject) -> None:
    case = data.draw(cases())
    x = case.project()
    assert case.norm(x) <= case.radius
    assert case.plain_norm(x) <= case.radius * (1 + 1e-13)


@pytest.mark.parametrize("text", ["l1", "l1,linf", "l1,l1", "l1,linf,linf"])
@given(data=st.data())
def test_the_projection_lies_in_the_ball_in_exact_arithmetic(cases: Any, text: str, data: st.DataObject) -> None:
    case = data.draw(cases(text=text))
    assume(case.radius < case.norm())  # else the tensor is returned, and its exact norm may be an ulp above
    x = case.project()
    rows = np.abs(wide(case.groups(x)))
    terms = rows.max(axis=1, initial=0.0) if "linf" in text else rows.reshape(-1)
    assert sum(map(Fraction, terms.tolist())) <= Fraction(case.radius)
    assert math.fsum(terms) <= case.radius


@given(data=st.data())
def test_the_projection_reaches_the_sphere(cases: Any, data: st.DataObject) -> None:
    case = data.draw(cases())
    assert case.norm(case.project()) >= min(case.radius, case.norm()) - slack(case)


@given(data=st.data())
def test_inside_the_ball_nothing_changes_bit_for_bit(cases: Any, bits: Any, data: st.DataObject) -> None:
    case = data.draw(cases())
    radius = case.norm() * data.draw(st.sampled_from([1.0, 1.0 + 2**-52, 2.0]))
    assert bits(case.project(radius)) == bits(case.y)


def test_inside_the_ball_negative_zeros_stay(layout: Any, bits: Any, dtype: Any, name: str) -> None:
    y = layout(np.array([[-0.0, 0.0, 1.0], [-0.0, -0.0, 0.0]], dtype))
    for text in (name, f"l1,{name}"):
        assert bits(nk.project(y, text, 1.0)) == bits(y)


# --- the norm splits -----------------------------------------------------------------------------------------


@given(data=st.data())
def test_norms_of_the_projection_and_of_the_rest_add_up(cases: Any, data: st.DataObject) -> None:
    case = data.draw(cases())
    x = wide(case.project())
    assert case.norm(wide(case.y) - x) + case.norm(x) == pytest.approx(case.norm(), abs=2 * slack(case))


# --- order, signs, idempotence, semigroup, scale -------------------------------------------------------------


@given(data=st.data())
def test_elements_shrink_and_keep_their_signs(cases: Any, data: st.DataObject) -> None:
    case = data.draw(cases())
    x = case.project()
    assert np.all(np.abs(x) <= np.abs(case.y))
    assert np.all(np.signbit(x) == np.signbit(case.y), where=x != 0)


@given(data=st.data())
def test_projecting_twice_changes_no_bit(cases: Any, bits: Any, data: st.DataObject) -> None:
    case = data.draw(cases())
    x = case.project()
    assert bits(case.project(y=x)) == bits(x)


@given(data=st.data())
def test_a_larger_ball_in_between_changes_nothing(cases: Any, data: st.DataObject) -> None:
    case = data.draw(cases())
    smaller = case.radius * data.draw(st.floats(0, 1))
    direct, detour = case.project(smaller), case.project(smaller, y=case.project())
    np.testing.assert_allclose(wide(detour), wide(direct), rtol=0, atol=2 * slack(case))


@given(data=st.data())
def test_scaling_by_a_power_of_two_scales_every_bit(cases: Any, bits: Any, data: st.DataObject) -> None:
    case = data.draw(cases(np.float64))
    assume(case.radius == 0 or case.radius >= 2.0**-970)  # of smaller ones, scaled, the last bits are lost
    c = 2.0 ** data.draw(st.integers(-30, 30))
    assert bits(case.project(c * case.radius, y=case.y * c)) == bits(case.project() * c)


@given(data=st.data())
def test_scaling_scales_the_projection(cases: Any, data: st.DataObject) -> None:
    case = data.draw(cases(np.float64))
    c = data.draw(st.floats(0.01, 100))
    scaled = case.project(c * case.radius, y=case.y * c)
    np.testing.assert_allclose(scaled, c * case.project(), rtol=0, atol=2 * c * slack(case))


@given(data=st.data())
def test_flipping_signs_flips_those_of_the_projection(cases: Any, data: st.DataObject) -> None:
    case = data.draw(cases())
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    signs = rng.choice(np.array([-1, 1], case.y.dtype.newbyteorder("=")), case.y.shape)
    np.testing.assert_array_equal(case.project(y=case.y * signs), case.project() * signs)


@given(data=st.data())
def test_permuting_indices_of_an_axis_permutes_the_projection(cases: Any, data: st.DataObject) -> None:
    case = data.draw(cases(min_rank=1))
    axis = data.draw(st.integers(0, case.y.ndim - 1))
    order = data.draw(st.permutations(range(case.y.shape[axis])))
    permuted = case.project(y=case.y.take(order, axis))
    np.testing.assert_allclose(wide(permuted), wide(case.project().take(order, axis)), rtol=0, atol=2 * slack(case))


# --- which groups vanish -------------------------------------------------------------------------------------


def threshold(v: NDArray[np.float64], radius: float) -> float:
    """Return the tau at which the magnitudes above it exceed it by the radius in all; 0 inside the ball."""
    descending = np.sort(v)[::-1]
    candidates = (np.cumsum(descending) - radius) / np.arange(1, v.size + 1)
    return max(float(candidates.max(initial=0.0)), 0.0)


@given(data=st.data())
def test_groups_vanish_where_they_do_not_exceed_the_threshold(cases: Any, name: str, data: st.DataObject) -> None:
    case = data.draw(cases(np.float64, text=f"l1,{name}", min_side=1))
    v, near = case.aggregates(), 4 * slack(case)
    tau = threshold(v, case.radius)
    zero = ~case.groups(case.project()).any(axis=1)
    assert np.all(zero[v <= tau - near])
    assert not np.any(zero[v > tau + near])


@given(data=st.data())
def test_groups_that_vanish_stay_away_as_the_radius_falls(cases: Any, data: st.DataObject) -> None:
    case = data.draw(cases())
    shares = [k / 8 for k in range(9)]
    zero = [~case.groups(case.project(case.norm() * share)).any(axis=1) for share in shares]
    for fewer, more in zip(zero[1:], zero, strict=False):
        assert np.all(more[fewer])


# --- where the projection is the nearest point ---------------------------------------------------------------


@pytest.mark.parametrize("text", ["l1,l2", "l1", "l2", "linf"])
@given(data=st.data())
def test_no_feasible_point_is_nearer(cases: Any, text: str, data: st.DataObject) -> None:
    """A point is the nearest of a convex set exactly where all of the set lies behind it: <y - x, z - x> <= 0."""
    case = data.draw(cases(np.float64, text=text))
    scale = np.abs(case.y).max(initial=0.0) or 1.0
    case = replace(case, y=case.y / scale, radius=case.radius / scale)
    x = case.project()
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    spread = 10.0 ** rng.uniform(-6, 1)
    z = case.project(y=x + spread * rng.standard_normal(x.shape))
    assert np.vdot(case.y - x, z - x) <= 1e-12 * max(case.norm(), 1.0) ** 2
    assert np.linalg.norm(case.y - x) <= np.linalg.norm(case.y - z) * (1 + 1e-12)


@pytest.mark.parametrize("text", ["l1,l2", "l1", "l2", "linf"])
@given(data=st.data())
def test_nearest_points_are_no_further_apart_than_their_sources(cases: Any, text: str, data: st.DataObject) -> None:
    case = data.draw(cases(np.float64, text=text))
    scale = np.abs(case.y).max(initial=0.0) or 1.0
    y, radius = case.y / scale, case.radius / scale
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    other = y + 10.0 ** rng.uniform(-3, 1) * rng.standard_normal(y.shape)
    apart = np.linalg.norm(case.project(radius, y=y) - case.project(radius, y=other))
    assert apart <= np.linalg.norm(y - other) * (1 + 1e-9) + 1e-12


# --- how norms of several levels are related --------------------------------------------------------------


def unfolded(case: Any, inner: str) -> tuple[Any, Any]:
    """Return one projection twice: with the inner norm over axis 1 and then the others, and over all at once."""
    others = ".".join(map(str, range(2, case.y.ndim)))
    apart = replace(case, text=f"l1,{inner},{inner}", axes=f"0,1,{others}")
    return apart, replace(case, text=f"l1,{inner}", axes=f"0,1.{others}")


@given(data=st.data())
def test_linf_levels_of_an_unfolding_merge_exactly(cases: Any, data: st.DataObject) -> None:
    apart, merged = unfolded(data.draw(cases(text="l1,linf,linf", min_rank=3)), "linf")
    np.testing.assert_array_equal(apart.project(), merged.project())


@given(data=st.data())
def test_l2_levels_of_an_unfolding_merge(cases: Any, data: st.DataObject) -> None:
    apart, merged = unfolded(data.draw(cases(text="l1,l2,l2", min_rank=3)), "l2")
    assert apart.norm() == pytest.approx(merged.norm(), rel=1e-14)
    np.testing.assert_allclose(wide(apart.project()), wide(merged.project()), rtol=0, atol=2 * slack(apart))


def test_l1_levels_of_an_unfolding_do_not_merge() -> None:
    y = np.random.default_rng(0).standard_normal((4, 3, 5))
    three = nk.project(y, "l1,l1,l1", 6.0)
    for text in ("l1,l1", "l1"):
        assert np.abs(three - nk.project(y, text, 6.0)).max() > 0.01


def test_linf_groups_are_not_non_expansive() -> None:
    """The nearest point of a convex set is; so l1,linf is another point than the nearest."""
    y, other = np.array([[1.0, 1, 1, 1], [1, 0, 0, 0]]), np.array([[1.0, 1, 1, 1], [0, 0, 0, 0]])
    apart = nk.project(y, "l1,linf", 1.0) - nk.project(other, "l1,linf", 1.0)
    assert np.linalg.norm(apart) > 1.1 * np.linalg.norm(y - other)


# --- one group, groups of one element -----------------------------------------------------------------------


@given(data=st.data())
def test_fibres_of_one_element_leave_the_outer_ball(cases: Any, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([name for name, norm in NORMS.items() if norm.of_one is LINF]))
    case = replace(data.draw(cases(text="l1")), axes=None)
    outer = ".".join(map(str, range(case.y.ndim)))
    without = replace(case, text=f"l1,{name}", axes=f"{outer},")
    of_length_one = replace(without, y=case.y[..., np.newaxis], axes=f"{outer},{case.y.ndim}")
    np.testing.assert_array_equal(without.project(), case.project())
    np.testing.assert_array_equal(of_length_one.project()[..., 0], case.project())


@given(data=st.data())
def test_one_group_leaves_the_inner_ball(cases: Any, bits: Any, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(list(NORMS)))
    case = replace(data.draw(cases(text=name, min_rank=1)), axes=None)
    one_group = nk.project(case.y[np.newaxis], f"l1,{name}", case.radius)[0]
    assert bits(one_group) == bits(case.project())


@given(data=st.data())
def test_axes_of_length_one_change_nothing(cases: Any, bits: Any, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(list(NORMS)))
    case = data.draw(cases(text=f"l1,{name}", min_rank=2, max_rank=2))
    case = replace(case, axes=None)
    more = replace(case, y=case.y[np.newaxis, :, np.newaxis, :, np.newaxis], axes="0.1.2,3.4")
    assert bits(more.project()[0, :, 0, :, 0]) == bits(case.project())


# --- edges --------------------------------------------------------------------------------------------------


@given(data=st.data())
def test_radius_zero_leaves_zeros(cases: Any, data: st.DataObject) -> None:
    case = data.draw(cases())
    assert not case.project(0.0).any()
    assert not case.project(-0.0).any()


@pytest.mark.parametrize("text", ["l1", "l2", "linf", "l1,l1", "l1,l2", "l1,linf", "l2,l1", "linf,l2"])
@pytest.mark.parametrize("radius", [0.0, 5e-324, 1.0])
def test_zeros_stay_zeros(bits: Any, dtype: Any, text: str, radius: float) -> None:
    y = np.zeros((3, 4), dtype)
    assert bits(nk.project(y, text, radius)) == bits(y)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 3), (0, 0)])
def test_empty_tensors_stay_empty(dtype: Any, name: str, shape: tuple[int, ...]) -> None:
    y = np.empty(shape, dtype)
    for text in (name, f"{name},l1", f"l1,{name}"):
        axes = ".".join(map(str, range(len(shape)))) + "," if "," in text else None
        assert nk.norm(y, text, axes=axes) == 0.0
        x = nk.project(y, text, 1.0, axes=axes)
        assert (x.shape, x.dtype) == (shape, dtype)


@pytest.mark.parametrize("shape", [(2**40, 0), (2**20, 0, 2**20)])
def test_groups_without_elements_cost_nothing(shape: tuple[int, ...]) -> None:
    y = np.empty(shape)
    for goal in ({"radius": 1.0}, {"sparsity": 0.5}, {"groups": 3}):
        assert nk.project(y, "l1,linf", **goal).shape == shape
    assert nk.norm(y, "l1,l2") == 0.0
    assert nk.radius_for(y, "l1,l2", groups=3) == 0.0
    found = nk.certify(y, y, "l1,linf", 1.0)
    assert (found.feasible, found.tight, found.groups, found.zero_groups) == (True, True, (shape[0], 0), (shape[0], 0))


@pytest.mark.parametrize("text", ["l1", "l2", "linf", "l1,linf", "l2,l1,linf"])
def test_a_tensor_without_axes_is_one_element(layout: Any, dtype: Any, text: str) -> None:
    axes = "," * text.count(",")
    for y, wanted in ((5.0, 2.0), (-5.0, -2.0), (1.5, 1.5), (-0.0, -0.0)):
        tensor = layout(np.array(y, dtype))
        out = np.empty_like(tensor)
        assert nk.project(tensor, text, 2.0, axes=axes) == wanted
        assert nk.project(tensor, text, 2.0, axes=axes, out=out, threads=2) is out
        assert out == wanted
        assert nk.norm(tensor, text, axes=axes) == abs(y)


@pytest.mark.parametrize(("count", "radius"), [(2, 1.0), (3, 1.0), (7, 0.1), (1000, 1.0), (4096, 1e-6)])
def test_ties_share_the_radius_alike(dtype: Any, count: int, radius: float) -> None:
    x = wide(nk.project(np.full(count, -1, dtype), "l1", radius))
    assert len(np.unique(x)) == 1
    info = finfo(dtype)
    rtol, atol = float(info.eps), 2**-52 + float(info.smallest_subnormal)
    np.testing.assert_allclose(x, -radius / count, rtol=rtol, atol=atol)


# --- any floats at all ------------------------------------------------------------------------------------------


def finite_arrays(dtype: Any, shape: tuple[int, ...]) -> st.SearchStrategy[NDArray[Any]]:
    if dtype is bfloat16:  # Hypothesis does not know it; it is the upper half of a float32
        return finite_arrays(np.float32, shape).map(lambda y: (y.view(np.uint32) >> 16).astype(np.uint16).view(dtype))
    return hnp.arrays(dtype, shape, elements={"allow_nan": False, "allow_infinity": False})


@st.composite
def any_floats(draw: st.DrawFn, cases: Any, dtype: Any) -> Any:
    """Draw a projection of any finite floats, subnormal and huge ones too, whose norm does not overflow."""
    case = draw(cases(dtype))
    y = draw(finite_arrays(dtype, case.y.shape))
    try:
        norm = case.norm(y)
    except ValueError:  # it overflows
        reject()
    radius = draw(st.floats(0, 1.7e308) | st.floats(0, 1).map(norm.__mul__))
    return replace(case, y=y, radius=radius)


@given(data=st.data())
def test_any_floats_keep_the_invariants(cases: Any, bits: Any, dtype: Any, data: st.DataObject) -> None:
    case = data.draw(any_floats(cases, dtype))
    x = case.project()
    assert case.norm(x) <= case.radius
    assert np.all(np.abs(x) <= np.abs(case.y))
    assert np.all(np.signbit(x) == np.signbit(case.y), where=x != 0)
    assert bits(case.project(y=x)) == bits(x)


# tensor, radius: where float64 ends, and where a step between neighbours is as large as the elements
MAX = np.finfo(np.float64).max
EXTREMES: dict[str, tuple[list[float], float]] = {
    "power of two above the radius overflows": ([2.0**1023 * 1.2, 1.0], math.nextafter(2.0**1023, 0)),
    "largest float": ([MAX, 0.0], MAX / 2),
    "largest float, an ulp inside": ([MAX, 0.0], math.nextafter(MAX, 0)),
    "huge": ([1e200, -3e200, 2e200], 1e200),
    "tiny": ([1e-200, -3e-200, 2e-200], 1e-200),
    "subnormal": ([1e-310, -3e-310, 2e-310], 1e-310),
    "smallest": ([5e-324, -1.5e-323], 5e-324),
    "far apart": ([1e200, 1e-200, -1.0], 1e100),
    "radius far below": ([1.0, 0.5, -0.25], 1e-300),
    "radius below an ulp": ([1.0, 1.0, 1.0], 1e-17),
    "radius an ulp below": ([0.1, 0.2, 0.3], math.nextafter(0.6, 0)),
    "ties, radius an ulp below": ([0.1] * 10, math.nextafter(1.0, 0) - 2**-53),
}


@pytest.mark.timeout(60, method="thread")  # a signal would wait for a kernel that never returns
@pytest.mark.parametrize("key", EXTREMES)
def test_extremes_end_in_the_ball_and_near_the_oracle(name: str, key: str) -> None:
    values, radius = EXTREMES[key]
    y = np.array(values)
    x = nk.project(y, name, radius)
    assert nk.norm(x, name) <= radius
    least = 2.0**-959 if NORMS[name].margin else 0.0  # below, what is left of a fibre that is scaled is dropped
    np.testing.assert_allclose(x, nk.reference.project(y, name, radius), rtol=1e-13, atol=max(y) * 1e-15 + least)
