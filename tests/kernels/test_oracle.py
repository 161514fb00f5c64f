"""The kernels equal the oracle, plain NumPy with a sort, whatever the shape, norm, axes, values and memory."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_dtypes import finfo
from numpy.typing import NDArray

import normtree_kernels as nk
from normtree_kernels.norms.mixed_norm import NORMS

DEPTHS = [1, 2, 3, 4]


def rounding(case: Any, wanted: NDArray[Any]) -> NDArray[np.float64]:
    """Bound how far rounding may part two ways to the same projection, element by element.

    Thresholds err with the sums they come from. Some levels stay up to a margin inside their balls, which an l1 level
    below takes from each element, however small. And a narrow element is two of its steps away at most: the oracle
    rounds to nearest, the kernels towards zero.
    """
    margins = sum(NORMS[name].margin for name in case.text.split(","))
    close = (1e-14 + margins) * case.plain_norm() + 2e-13 * np.abs(wanted.astype(np.float64))
    info = finfo(wanted.dtype)
    step = float(info.eps) * np.abs(wanted.astype(np.float64)) + float(info.smallest_subnormal)
    return np.asarray(close + 2 * step)


@pytest.mark.parametrize("depth", DEPTHS)
@given(data=st.data())
def test_project_equals_the_oracle(cases: Any, dtype: Any, depth: int, data: st.DataObject) -> None:
    case = data.draw(cases(dtype, depth))
    x, wanted = case.project(), case.oracle()
    assert (x.shape, x.dtype) == (case.y.shape, case.y.dtype)
    parted = np.abs(x.astype(np.float64) - wanted.astype(np.float64))
    np.testing.assert_array_less(parted, rounding(case, wanted))


@pytest.mark.parametrize("depth", DEPTHS)
@given(data=st.data())
def test_norm_equals_the_oracle(cases: Any, depth: int, data: st.DataObject) -> None:
    case = data.draw(cases(depth=depth))
    assert case.norm() == pytest.approx(case.plain_norm(), rel=1e-14, abs=0)


@given(data=st.data())
def test_out_and_threads_change_nothing(cases: Any, bits: Any, data: st.DataObject) -> None:
    case = data.draw(cases())
    out = np.empty_like(case.y, subok=False)
    threads = data.draw(st.integers(1, 3))
    assert case.project(out=out, threads=threads) is out
    assert bits(out) == bits(case.project())


def assert_near(x: NDArray[Any], wanted: NDArray[Any], close: float) -> None:
    info = finfo(x.dtype)
    rtol, atol = 2 * float(info.eps) + 1e-13, close + float(info.smallest_subnormal)
    np.testing.assert_allclose(x.astype(np.float64), wanted.astype(np.float64), rtol=rtol, atol=atol)


@pytest.mark.parametrize("size", [1, 2, 65, 1025, 3000])
@pytest.mark.parametrize("radius", [1e-3, 1.0, 100.0])
def test_long_fibres_equal_the_oracle(name: str, dtype: Any, size: int, radius: float) -> None:
    y = np.random.default_rng(size).standard_normal((3, size)).astype(dtype)
    x = nk.project(y, f"l1,{name}", radius)
    wanted = nk.reference.project(y, f"l1,{name}", radius)
    close = 1e-14 * nk.norm(y, f"l1,{name}")
    assert_near(x, wanted, close)


def test_a_large_vector_equals_the_oracle(dtype: Any) -> None:
    y = np.random.default_rng(0).standard_t(3, 200_000).astype(dtype)
    x, wanted = nk.project(y, "l1", 1e3), nk.reference.project(y, "l1", 1e3)
    if dtype in (np.float64, np.float32):  # half precision rounds more of them to zero, towards which kernels round
        assert np.count_nonzero(x) == np.count_nonzero(wanted)
    assert_near(x, wanted, 1e-16 * nk.norm(y, "l1"))
