"""Balls far below the largest element keep what belongs to them, against exact arithmetic."""

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_dtypes import bfloat16
from numpy.typing import NDArray

import normtree_kernels as nk
from normtree_kernels.compiled.lanes import CHUNK

Array = NDArray[Any]
STEP = Fraction(1, 2**51)  # of the radius: what is stated of an element that is left
LEAST = Fraction(5e-324)
L2_LOSS = Fraction(1, 2**44)  # what an l2 level stays inside its ball


def shrunk(values: Sequence[float], radius: float) -> list[Fraction]:
    """Project non-negative numbers onto the l1 ball in exact arithmetic."""
    exact, rho = [Fraction(value) for value in values], Fraction(radius)
    if sum(exact) <= rho:
        return exact
    descending = sorted(exact, reverse=True)
    thresholds = [(total - rho) / k for k, total in enumerate(accumulate(descending), 1)]
    tau = max(tau for tau, value in zip(thresholds, descending, strict=True) if value > tau)
    return [max(value - tau, Fraction(0)) for value in exact]


@st.composite
def peaks(draw: st.DrawFn, most: int = 9) -> Array:
    """Draw magnitudes of every size, some of them neighbours of the largest."""
    exponent = draw(st.integers(-900, 900))
    largest = math.ldexp(draw(st.floats(1.0, 2.0, exclude_max=True)), exponent)
    near = st.integers(0, 2 ** draw(st.integers(0, 40))).map(lambda steps: largest - steps * math.ulp(largest))
    far = st.builds(math.ldexp, st.floats(0.0, 1.0), st.integers(exponent - 150, exponent))
    values = draw(st.lists(near | far, min_size=1, max_size=most))
    at = draw(st.integers(0, len(values)))
    return np.array([*values[:at], largest, *values[at:]])


@st.composite
def radii(draw: st.DrawFn, largest: float) -> float:
    """Draw a radius from far below an element's last digit to an eighth of the element."""
    exponent = math.frexp(largest)[1]
    return math.ldexp(draw(st.floats(0.5, 1.0, exclude_max=True)), draw(st.integers(exponent - 150, exponent - 3)))


def lost(x: Array, radius: float) -> Fraction:
    """What a result lacks of its radius, in steps of an element."""
    return (Fraction(radius) - sum(map(Fraction, np.abs(x).reshape(-1).tolist()))) / (STEP * Fraction(radius) + LEAST)


# --- one l1 ball ------------------------------------------------------------------------------------------------


def test_what_the_largest_leaves_is_kept() -> None:
    np.testing.assert_array_equal(nk.project(np.array([1e17, 1.0, 0.5]), "l1", 1.0), [1, 0, 0])
    np.testing.assert_array_equal(nk.project(np.array([-1e17, 1e17 - 16, 0.5]), "l1", 20.0), [-18, 2, 0])
    np.testing.assert_array_equal(nk.project(np.array([1e20, 1.0, -1e20], np.float32), "l1", 1.0), [0.5, 0, -0.5])


@given(data=st.data())
def test_each_element_is_within_a_step_of_the_exact_one(layout: Any, data: st.DataObject) -> None:
    y = data.draw(peaks())
    radius = data.draw(radii(float(y.max())))
    x = nk.project(layout(np.stack([y, y], axis=1)), "linf,l1", radius, axes="1,0")[:, 0]
    wanted = shrunk(y.tolist(), radius)
    assert sum(map(Fraction, x.tolist())) <= radius
    assert lost(x, radius) <= sum(value > 0 for value in wanted)
    near = STEP * Fraction(radius) + LEAST
    assert all(abs(Fraction(got) - value) <= near for got, value in zip(x.tolist(), wanted, strict=True))


@pytest.mark.parametrize("count", [1, 3, 1000, 100_000])
@pytest.mark.parametrize("ratio", [2.0**-4, 2.0**-30, 2.0**-53, 2.0**-60, 2.0**-300])
def test_ties_share_a_small_radius(count: int, ratio: float) -> None:
    y = np.full(count, 1.1)
    x = nk.project(y, "l1", ratio)
    assert len(set(x.tolist())) == 1
    assert 0 <= lost(x, ratio) <= count


@given(size=st.integers(2 * CHUNK, 5 * CHUNK), seed=st.integers(0, 2**32 - 1), ratio=st.integers(3, 200))
def test_long_fibres_keep_a_small_radius(size: int, seed: int, ratio: int) -> None:
    rng = np.random.default_rng(seed)
    y = rng.standard_t(3, size)
    y[rng.integers(size, size=5)] = 1e6 - rng.integers(0, 3, 5) * 2.0**-30
    radius = 1e6 * rng.uniform(0.5, 1.0) * 2.0**-ratio
    x = nk.project(y, "l1", radius)
    assert 0 <= lost(x, radius) <= int(np.count_nonzero(x)) + 1
    above = np.argsort(y)[-5:]
    wanted = shrunk(y[above].tolist(), radius)
    near = STEP * Fraction(radius)
    assert all(abs(Fraction(got) - value) <= near for got, value in zip(x[above].tolist(), wanted, strict=True))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, bfloat16])
def test_narrow_elements_keep_a_small_radius_as_far_as_they_have_digits(dtype: Any) -> None:
    y = np.array([60000.0, 1.0, 60000.0, 0.5]).astype(dtype)
    x = nk.project(y, "l1", 2.0**-9).astype(np.float64)
    np.testing.assert_array_equal(x, [2.0**-10, 0, 2.0**-10, 0])


# --- several levels ---------------------------------------------------------------------------------------------

TEXTS = ["l1,linf", "l1,l1", "l1,l2", "l2,l1", "linf,l1", "l1,l1,linf", "l1,l2,l1", "l1,l1,l1"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("axes", ["rows", "columns"])
@pytest.mark.parametrize("radius", [1e-3, 1e-9, 1e-12, 1e-100, 1e-300])
def test_levels_keep_a_small_radius(text: str, axes: str, radius: float) -> None:
    y = np.random.default_rng(3).standard_normal((64, 64) if text.count(",") == 1 else (16, 16, 16))
    y[3, 5] = 1e4
    turned = y if axes == "rows" else np.ascontiguousarray(y.T).T
    x = nk.project(turned, text, radius)
    norm = nk.norm(x, text)
    assert radius * (1 - y.size * float(STEP) - float(L2_LOSS)) <= norm <= radius
    wanted = nk.reference.project(y, text, radius)
    np.testing.assert_allclose(x, wanted, rtol=1e-12, atol=1e-13 * radius)


@pytest.mark.parametrize("radius", [1e-3, 1e-9, 1e-12, 1e-100, 1e-300])
def test_the_exact_projection_keeps_a_small_radius(radius: float) -> None:
    y = np.random.default_rng(3).standard_normal((64, 64))
    y[3, 5], y[9] = 1e4, 0.0
    x = nk.project(y, "l1,linf", radius, exact=True)
    assert radius * (1 - y.size * float(STEP)) <= nk.norm(x, "l1,linf") <= radius
    np.testing.assert_allclose(
        x, nk.reference.project(y, "l1,linf", radius, exact=True), rtol=1e-9, atol=1e-15 * radius
    )


def test_the_exact_projection_shares_a_small_radius_between_groups() -> None:
    y = np.array([[2.0**60, 2.0**8], [2.0**60, 2.0**9], [1.0, 2.0]])
    np.testing.assert_array_equal(nk.project(y, "l1,linf", 2.0**10, exact=True), [[512, 256], [512, 512], [0, 0]])


# --- l2 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", ["0,1", "1,0"])
@given(data=st.data())
def test_l2_balls_of_any_size_are_reached(axes: str, data: st.DataObject) -> None:
    exponent = data.draw(st.integers(-1040, 1000))
    values = st.floats(-1.0, 1.0, allow_subnormal=False)
    fractions = [1.0, *data.draw(st.lists(values, max_size=5))]
    y = np.ldexp(np.array([fractions] * 70), exponent)
    y = y if axes == "0,1" else y.T
    radius = math.ldexp(data.draw(st.floats(0.5, 1.0, exclude_max=True)), data.draw(st.integers(-1070, exponent - 1)))
    x = nk.project(y, "linf,l2", radius, axes=axes)
    assert nk.norm(x, "linf,l2", axes=axes) <= radius
    wanted = y / np.ldexp(1.0, exponent)
    wanted = wanted / np.linalg.norm(fractions) * radius
    np.testing.assert_allclose(x, wanted, rtol=2.0**-44, atol=1e-323)


@pytest.mark.parametrize("radius", [1e-300, 1e-304])
def test_long_l2_fibres_keep_a_small_radius(radius: float) -> None:
    y = np.random.default_rng(0).standard_normal((3, 3 * CHUNK)) * 1e30
    x = nk.project(y, "linf,l2", radius)
    assert radius * (1 - float(L2_LOSS)) <= nk.norm(x, "linf,l2") <= radius
    np.testing.assert_allclose(x, nk.reference.project(y, "linf,l2", radius), rtol=1e-12, atol=1e-323)


def test_an_l2_norm_of_subnormals_is_rounded_down() -> None:
    assert nk.norm(np.array([5e-324, 5e-324]), "l2") == 5e-324
    assert nk.norm(np.array([1.5e-323, 2e-323]), "l2") == 2.5e-323
