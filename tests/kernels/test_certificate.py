"""Certificates tell what NumPy would find of a tensor and its projection; and never take a wrong one for right."""

import json
import math
import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_dtypes import finfo
from numpy.typing import NDArray

import normtree_kernels as nk
from normtree_kernels.certificates import certificate
from normtree_kernels.norms.l2 import L2

Y = np.array([[3, -1, 0.5], [1, 2, -0.5], [-2, 0.5, 0.25]])  # columns are the groups
NEAREST = ["l1", "l2", "linf", "l1,l2", "l1,l2,l2", "linf,l1"]  # norms whose multi-level projection is the nearest


def wide(x: NDArray[Any]) -> NDArray[np.float64]:
    return x.astype(np.float64)


def certify(case: Any, x: NDArray[Any]) -> nk.Certificate:
    return nk.certify(case.y, x, case.text, case.radius, axes=case.axes)


def rounding(case: Any) -> float:
    """Bound what rounding leaves of a residual or gap, in units of the tensor's norm."""
    info, norm = finfo(case.y.dtype), case.norm() or 1.0
    step = 2e-13 + float(info.eps) + float(info.smallest_subnormal) / norm
    return min(4 * step, 1.0) * max(case.y.size, 1)


def counted(case: Any, x: NDArray[Any]) -> list[tuple[int, int]]:
    """The number of groups of each level, and how many of them are zero."""
    mixed = nk.MixedNorm.parse(case.text, case.axes, ndim=x.ndim)
    ordered, kept, counts = x.transpose(mixed.order), 0, []
    for level in mixed.levels:
        kept += len(level.axes)
        shape = ordered.shape
        zero = ~ordered.reshape(math.prod(shape[:kept]), math.prod(shape[kept:])).any(axis=1)
        counts.append((zero.size, int(zero.sum())))
    return counts


# --- what is told -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 2, 3])
@given(data=st.data())
def test_norms_distance_and_groups_are_those_numpy_finds(cases: Any, depth: int, data: st.DataObject) -> None:
    case = data.draw(cases(depth=depth))
    x = case.project()
    found = certify(case, x)
    assert (found.norm_before, found.norm_after, found.radius) == (case.norm(), case.norm(x), case.radius)
    gone = np.abs(wide(case.y) - wide(x)).reshape(-1)
    assert found.distance == pytest.approx(float(L2.reference_norm(gone)), rel=1e-14)
    assert list(zip(found.groups, found.zero_groups, strict=True)) == counted(case, x)


@pytest.mark.parametrize("depth", [1, 2, 3])
@given(data=st.data())
def test_a_projection_is_feasible_and_splits_the_norm(cases: Any, depth: int, data: st.DataObject) -> None:
    case = data.draw(cases(depth=depth))
    found = certify(case, case.project())
    assert found.feasible
    assert found.tight
    assert 0 <= found.shortfall <= 1
    assert 0 <= found.identity_residual <= rounding(case)
    assert found.duality_gap >= -rounding(case)


@pytest.mark.parametrize("text", NEAREST)
@given(data=st.data())
def test_the_nearest_point_closes_the_duality_gap(cases: Any, text: str, data: st.DataObject) -> None:
    case = data.draw(cases(text=text))
    assert abs(certify(case, case.project()).duality_gap) <= rounding(case)


@given(data=st.data())
def test_a_tensor_in_the_ball_is_its_own_certificate(cases: Any, data: st.DataObject) -> None:
    case = data.draw(cases())
    found = certify(replace(case, radius=case.norm()), case.y)
    assert found.feasible
    assert found.tight
    assert (found.distance, found.shortfall, found.identity_residual, found.duality_gap) == (0, 0, 0, 0)


@given(data=st.data())
def test_a_point_outside_the_ball_is_not_feasible(cases: Any, data: st.DataObject) -> None:
    case = data.draw(cases(min_side=1))
    norm = case.norm()
    radius = min(case.radius, math.nextafter(norm, 0))
    assert certify(replace(case, radius=radius), case.y).feasible == (norm == 0)


def test_the_vectors_worked_out() -> None:
    found = nk.certify(Y, nk.project(Y, "l1,linf", 2.0, axes="1,0"), "l1,linf", 2.0, axes="1,0")
    assert found.distance == pytest.approx(5.5625**0.5, rel=1e-15)
    assert (found.norm_before, found.norm_after, found.radius, found.feasible) == (5.5, 2, 2, True)
    assert (found.groups, found.zero_groups) == ((3, 9), (1, 3))
    assert found.identity_residual == 0
    assert abs(found.duality_gap) < 1e-15
    other = nk.certify(Y, nk.project(Y, "l1,linf", 3.0, axes="1,0"), "l1,linf", 3.0, axes="1,0")
    # Y - X has columns of l1 norm 1, 1 and 1.25; its inner product with X is 3
    assert other.duality_gap == pytest.approx((3 * 1.25 - 3) / 5.5**2, rel=1e-14)


def test_a_wrong_answer_is_told_apart() -> None:
    halved = nk.certify(Y, Y * 0.5, "l1,l2", nk.norm(Y, "l1,l2") / 2)
    assert halved.feasible
    assert halved.tight
    assert halved.duality_gap > 0.01
    flipped = nk.certify(Y, -Y, "l1,linf", 5.5, axes="1,0")
    assert flipped.identity_residual == pytest.approx(2)
    zeros = nk.certify(Y, np.zeros((3, 3)), "l1,linf", 2.0, axes="1,0")
    assert (zeros.identity_residual, zeros.zero_groups) == (0, (3, 9))
    assert zeros.duality_gap > 0.1
    assert (zeros.feasible, zeros.tight, zeros.shortfall) == (True, False, 1.0)


@pytest.mark.parametrize("radius", [1e-3, 1e-12, 1e-17, 1e-100])
def test_zeros_are_not_tight_however_small_the_radius(radius: float) -> None:
    for text in ("l1", "l1,linf", "l1,l2", "l1,l1"):
        zeros = nk.certify(Y * 1e4, np.zeros((3, 3)), text, radius)
        assert (zeros.feasible, zeros.tight, zeros.shortfall) == (True, False, 1.0)
        found = nk.certify(Y * 1e4, nk.project(Y * 1e4, text, radius), text, radius)
        assert (found.feasible, found.tight) == (True, True)
        assert found.shortfall < 1e-13


def test_what_a_type_cannot_hold_is_no_loss() -> None:
    y = np.array([[1.0, 2.0], [3.0, 4.0]], np.float16)
    found = nk.certify(y, nk.project(y, "l1,linf", 1e-8), "l1,linf", 1e-8)
    assert (found.norm_after, found.tight, found.shortfall) == (0.0, True, 1.0)
    single = nk.certify(y.astype(np.float32), np.zeros((2, 2), np.float32), "l1,linf", 1e-8)
    assert not single.tight


# --- whatever the size, scale and memory -----------------------------------------------------------------------


@pytest.mark.parametrize("scale", [2.0**-1000, 2.0**-500, 2.0**500, 2.0**1000])
def test_scale_changes_no_share(scale: float) -> None:
    for text, radius in (("l1,linf", 3.0), ("l1,l1", 4.0), ("l1,linf", 1.0)):
        here, there = (
            nk.certify(y, nk.project(y, text, r, axes="1,0"), text, r, axes="1,0")
            for y, r in ((Y, radius), (Y * scale, radius * scale))
        )
        assert there.duality_gap == pytest.approx(here.duality_gap, rel=1e-12, abs=1e-15)
        assert there.distance == pytest.approx(here.distance * scale, rel=1e-14)
        assert (there.identity_residual, there.zero_groups) == (here.identity_residual, here.zero_groups)


def test_blocks_change_nothing_but_rounding(monkeypatch: pytest.MonkeyPatch, dtype: Any) -> None:
    y = np.random.default_rng(1).standard_normal((9, 4, 50)).astype(dtype)
    for axes in ("0,1.2", "2,0.1", "2.0,1"):
        radius = nk.norm(y, "l1,linf", axes=axes) / 3
        x = nk.project(y, "l1,linf", radius, axes=axes)
        whole = nk.certify(y, x, "l1,linf", radius, axes=axes)
        with monkeypatch.context() as patch:
            patch.setattr(certificate, "_BLOCK_BYTES", 512)
            parts = nk.certify(y, x, "l1,linf", radius, axes=axes)
        for key, value in whole.as_dict().items():
            assert parts.as_dict()[key] == pytest.approx(value, rel=1e-13, abs=1e-15)


def test_layouts_and_empty_tensors(layout: Any, dtype: Any) -> None:
    y = Y.astype(dtype)
    plain, lain = (nk.certify(z, nk.project(z, "l1,l1", 2.0), "l1,l1", 2.0) for z in (y, layout(y)))
    assert replace(lain, duality_gap=0) == replace(plain, duality_gap=0)
    assert lain.duality_gap == pytest.approx(plain.duality_gap, rel=1e-14)
    empty = nk.certify(np.empty((3, 0), dtype), np.empty((3, 0), dtype), "l1,linf", 0.0)
    assert empty.feasible
    assert (empty.groups, empty.zero_groups) == ((3, 0), (3, 0))
    assert (empty.norm_before, empty.distance, empty.identity_residual, empty.duality_gap) == (0, 0, 0, 0)


@given(data=st.data())
def test_a_certificate_is_json(cases: Any, data: st.DataObject) -> None:
    case = data.draw(cases())
    found = certify(case, case.project())
    told = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert told == {**found.as_dict(), "groups": list(found.groups), "zero_groups": list(found.zero_groups)}


# --- what is refused ------------------------------------------------------------------------------------------

BAD = Y.copy()
BAD[1, 2] = math.nan

WRONG: list[tuple[str, Any, type[Exception], str]] = [
    ("x", Y.tolist(), TypeError, "wanted a numpy.ndarray, got list"),
    ("x", None, TypeError, "wanted a numpy.ndarray, got NoneType"),
    ("x", Y.astype(np.int64), TypeError, ".*got int64"),
    ("x", Y.astype(np.float32), ValueError, r".*dtype float64 as y, got .*float32"),
    ("x", Y[:2], ValueError, r"wanted shape \(3, 3\) .*got \(2, 3\)"),
    ("x", Y.reshape(-1), ValueError, r"wanted shape \(3, 3\) .*got \(9,\)"),
    ("x", BAD, ValueError, r"element \[1, 2\] is nan; every element must be finite"),
    ("x", np.full((3, 3), -math.inf), ValueError, r"element \[0, 0\] is -inf"),
    ("x", np.full((3, 3), 1e308), ValueError, r".*overflows"),
    ("y", BAD, ValueError, r"element \[1, 2\] is nan; every element must be finite"),
    ("y", Y.tolist(), TypeError, "wanted a numpy.ndarray, got list"),
    ("radius", -1.0, ValueError, "must be finite and >= 0, got -1.0"),
    ("radius", None, TypeError, "wanted a real number, got NoneType"),
    ("norm", "l1,l3", ValueError, "unknown norm 'l3'"),
    ("axes", "0,0", ValueError, ".*exactly one level"),
]


@pytest.mark.parametrize("text", ["l1", "l2", "linf", "l1,l1"])
def test_a_long_fibre_is_certified_part_by_part(text: str) -> None:
    y = np.random.default_rng(3).standard_normal((1, 1 << 23), np.float32)
    x = nk.project(y, text, 0.3 * nk.norm(y, text))
    nk.certify(y, x, text, 1.0)  # compiles
    tracemalloc.start()
    found = nk.certify(y, x, text, 0.3 * nk.norm(y, text))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < y.size * 8 / 1.5  # a copy in float64 is no more
    assert (found.feasible, found.tight) == (True, True)
    assert found.distance == pytest.approx(float(L2.reference_norm(np.abs(wide(y) - wide(x)).reshape(-1))), rel=1e-12)
    assert found.identity_residual < 1e-6


@pytest.mark.parametrize(
    ("argument", "value", "error", "message"), WRONG, ids=[f"{a} {type(v).__name__}" for a, v, *_ in WRONG]
)
def test_a_wrong_argument_is_refused_by_its_name(
    argument: str, value: Any, error: type[Exception], message: str
) -> None:
    right: dict[str, Any] = {"y": Y, "x": Y, "norm": "l1,linf", "radius": 2.0, "axes": "1,0"}
    with pytest.raises(error, match=f"^{argument}: ({message})"):
        nk.certify(**{**right, argument: value})
