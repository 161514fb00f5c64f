"""Projections worked out by hand: of a matrix whose columns are the groups, and of a tensor of rank three."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ml_dtypes import finfo

import normtree_kernels as nk

Y = [[3, -1, 0.5], [1, 2, -0.5], [-2, 0.5, 0.25]]
T = [[[1, -2], [3, 0.5]], [[-1, 1], [0.5, -0.5]], [[2, 2], [-1, 0]]]

LENGTHS = np.sqrt([14, 5.25, 0.5625])  # of the columns of Y
KEPT = (LENGTHS[0] + LENGTHS[1] - 3) / 2  # threshold of those at radius 3
SCALED = np.array(Y) * np.maximum(LENGTHS - KEPT, 0) / LENGTHS

# name: tensor, norm, axes, radius, projection, its squared distance to the tensor where the paper tells it
VECTORS: dict[str, tuple[Any, str, str | None, float, Any, float | None]] = {
    "l1,linf 1": (Y, "l1,linf", "1,0", 1, [[1, 0, 0], [1, 0, 0], [-1, 0, 0]], 10.8125),
    "l1,linf 2": (Y, "l1,linf", "1,0", 2, [[1.5, -0.5, 0], [1, 0.5, 0], [-1.5, 0.5, 0]], 5.5625),
    "l1,linf 3": (Y, "l1,linf", "1,0", 3, [[2, -1, 0], [1, 1, 0], [-2, 0.5, 0]], 2.5625),
    "l1,linf 4": (Y, "l1,linf", "1,0", 4, [[2.5, -1, 0], [1, 1.5, 0], [-2, 0.5, 0]], 1.0625),
    "l1,linf 5.5": (Y, "l1,linf", "1,0", 5.5, Y, 0),
    "l1,l1 2": (Y, "l1,l1", "1,0", 2, [[1.5, 0, 0], [0, 0, 0], [-0.5, 0, 0]], None),
    "l1,l1 3": (Y, "l1,l1", "1,0", 3, [[1.875, 0, 0], [0, 0.25, 0], [-0.875, 0, 0]], None),
    "l1,l2 3": (Y, "l1,l2", "1,0", 3, SCALED, 5.161878),
    "l1 2": (Y, "l1", None, 2, [[4 / 3, 0, 0], [0, 1 / 3, 0], [-1 / 3, 0, 0]], None),
    "l1,linf,linf 3": (
        T, "l1,linf,linf", None, 3, [[[1, -2], [2, 0.5]], [[0, 0], [0, 0]], [[1, 1], [-1, 0]]], None,
    ),
    "l1,l1,l1 6": (
        T, "l1,l1,l1", None, 6,
        [[[7 / 24, -31 / 24], [25 / 12, 0]], [[-1 / 12, 1 / 12], [0, 0]], [[13 / 12, 13 / 12], [0, 0]]], None,
    ),
    "l1 6": (
        T, "l1", None, 6,
        [[[0.125, -1.125], [2.125, 0]], [[-0.125, 0.125], [0, 0]], [[1.125, 1.125], [-0.125, 0]]], None,
    ),
}  # fmt: skip

# tensor, norm, axes, value
NORMS: list[tuple[Any, str, str | None, float]] = [
    (Y, "l1,linf", "1,0", 5.5),
    (Y, "l1,linf", "0,1", 7),
    (Y, "l1,l1", "1,0", 10.75),
    (Y, "l1,l2", "1,0", LENGTHS.sum()),
    (Y, "l2,linf", "1,0", np.sqrt(13.25)),
    (Y, "linf,l1", "1,0", 6),
    (Y, "l2", None, np.sqrt(19.8125)),
    (Y, "linf", None, 3),
    (T, "l1,linf,linf", None, 6),
    (T, "l1,l1,l1", None, 14.5),
    (T, "linf,l1,linf", None, 5),
]


@pytest.fixture(params=[nk.project, nk.reference.project], ids=["kernels", "oracle"])
def project(request: pytest.FixtureRequest) -> Callable[..., Any]:
    function: Callable[..., Any] = request.param
    return function


@pytest.fixture(params=[nk.norm, nk.reference.norm], ids=["kernels", "oracle"])
def norm(request: pytest.FixtureRequest) -> Callable[..., float]:
    function: Callable[..., float] = request.param
    return function


@pytest.mark.parametrize("key", VECTORS)
def test_projection_is_the_one_worked_out(project: Callable[..., Any], dtype: Any, key: str) -> None:
    tensor, text, axes, radius, wanted, squared = VECTORS[key]
    y = np.array(tensor, dtype)
    x = project(y, text, radius, axes=axes)
    assert x.dtype == dtype
    x, eps = x.astype(np.float64), float(finfo(dtype).eps)
    np.testing.assert_allclose(x, wanted, rtol=4 * eps, atol=1e-13)
    if squared is not None:
        assert np.square(y.astype(np.float64) - x).sum() == pytest.approx(squared, abs=1e-6 + 40 * eps)


@pytest.mark.parametrize(("tensor", "text", "axes", "wanted"), NORMS)
def test_norm_is_the_one_worked_out(
    norm: Callable[..., float], dtype: Any, tensor: Any, text: str, axes: str | None, wanted: float
) -> None:
    assert norm(np.array(tensor, dtype), text, axes=axes) == pytest.approx(wanted, rel=1e-15)


def test_columns_keep_the_lengths_of_the_projected_aggregates() -> None:
    x = nk.project(np.array(Y), "l1,l2", 3.0, axes="1,0")
    np.testing.assert_allclose(np.linalg.norm(x, axis=0), [2.2251847696, 0.7748152304, 0], atol=1e-10)


def test_rows_are_other_groups_than_columns() -> None:
    x = nk.project(np.array(Y), "l1,linf", 2.0)
    wanted = [[4 / 3, -1, 0.5], [1 / 3, 1 / 3, -1 / 3], [-1 / 3, 1 / 3, 0.25]]
    np.testing.assert_allclose(x, wanted, rtol=1e-14)
