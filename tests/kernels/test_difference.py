"""The difference of a tensor and its projection, against NumPy in float64."""

from typing import Any

import numpy as np
import pytest

from normtree_kernels.certificates.difference import difference


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 1023, 1024, 1025, 5000])
def test_it_equals_numpy(dtype: Any, size: int) -> None:
    rng = np.random.default_rng(size)
    y = rng.standard_normal(size).astype(dtype)
    x = np.where(rng.random(size) < 0.5, y, 0).astype(dtype)
    length, nonzero = difference(y, x)
    gone = y.astype(np.float64) - x.astype(np.float64)
    assert length == pytest.approx(float(np.linalg.norm(gone)), rel=1e-14, abs=0)
    assert nonzero == np.count_nonzero(x)


@pytest.mark.parametrize("scale", [1e-250, 1e250])
def test_squares_out_of_range_are_taken_in_scale(scale: float) -> None:
    y = np.array([3.0, 0.0, 4.0]) * scale
    distance, nonzero = difference(y, np.zeros(3))
    assert distance == pytest.approx(5 * scale, rel=1e-14, abs=0)
    assert nonzero == 0


def test_a_negative_zero_is_a_zero_and_read_only_arrays_are_taken() -> None:
    y = np.array([[1.0, -0.0], [0.0, 2.0]], np.float32)
    y.flags.writeable = False
    assert difference(y, y) == (0.0, 2)
