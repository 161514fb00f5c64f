"""Errors that other codes for the same projections made, each kept out by a test."""

import math
import threading
from typing import Any

import numpy as np
import pytest
from ml_dtypes import bfloat16, finfo
from numpy.typing import NDArray

import normtree_kernels as nk

TEXTS = ["l1", "l2", "linf", "l1,l1", "l1,l2", "l1,linf", "l2,l1", "linf,l1", "l2,linf"]
Y = np.array([[3, -1, 0.5], [1, 2, -0.5], [-2, 0.5, 0.25]])


def random(shape: tuple[int, ...], dtype: Any = np.float64) -> NDArray[Any]:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


# --- the l1 ball is no simplex ----------------------------------------------------------------------------------


def test_negative_elements_do_not_become_zero() -> None:
    np.testing.assert_array_equal(nk.project(np.array([-3.0, 1.0]), "l1", 2.0), [-2, 0])


def test_a_point_inside_the_l1_ball_does_not_move_to_its_surface(dtype: Any) -> None:
    y = np.array([0.25, -0.5, 0.0], dtype)
    np.testing.assert_array_equal(nk.project(y, "l1", 1.0), y)


def test_the_zero_vector_does_not_move(dtype: Any) -> None:
    np.testing.assert_array_equal(nk.project(np.zeros(4, dtype), "l1", 1.0), np.zeros(4))


# --- wrong numbers ----------------------------------------------------------------------------------------------


def test_l2_groups_are_weighed_by_their_lengths_not_by_squares() -> None:
    lengths = np.linalg.norm(Y, axis=0)
    assert nk.norm(Y, "l1,l2", axes="1,0") == pytest.approx(lengths.sum(), rel=1e-15)
    kept = np.linalg.norm(nk.project(Y, "l1,l2", 3.0, axes="1,0"), axis=0)
    np.testing.assert_allclose(kept[:2], lengths[:2] - (lengths[0] + lengths[1] - 3) / 2, rtol=1e-12)


@pytest.mark.parametrize("text", TEXTS)
def test_strides_are_followed(dtype: Any, text: str) -> None:
    y = random((8, 12), dtype)
    for view in (y.T, y[::2], y[:, ::3], y[::-1, ::2], y[1:, 1:]):
        radius = nk.norm(view.copy(), text) / 2
        np.testing.assert_array_equal(nk.project(view, text, radius), nk.project(view.copy(), text, radius))


@pytest.mark.parametrize("text", TEXTS)
def test_float32_is_projected_in_float64_and_stays_inside(text: str) -> None:
    y = random((50, 40), np.float32)
    radius = nk.norm(y, text) / 3
    x = nk.project(y, text, radius)
    assert x.dtype == np.float32
    assert nk.norm(x, text) <= radius
    assert nk.norm(x.astype(np.float64), text) <= radius
    np.testing.assert_allclose(x, nk.project(y.astype(np.float64), text, radius), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("half", [np.float16, bfloat16], ids=["float16", "bfloat16"])
def test_half_precision_is_projected_in_float64_and_stays_inside(text: str, half: Any) -> None:
    y = random((50, 40), half)
    radius = nk.norm(y, text) / 3
    x = nk.project(y, text, radius)
    assert x.dtype == half
    assert nk.norm(x, text) <= radius
    assert nk.norm(x.astype(np.float64), text) <= radius
    wanted = nk.project(y.astype(np.float64), text, radius)
    info = finfo(half)
    rtol, atol = float(info.eps), float(info.smallest_subnormal)
    np.testing.assert_allclose(x.astype(np.float64), wanted, rtol=rtol, atol=atol)
    assert np.all(np.abs(x.astype(np.float64)) <= np.abs(wanted))


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("below", [1e-5, 1e-9, 1e-13])
def test_no_tolerance_lets_a_tensor_just_outside_pass(dtype: Any, text: str, below: float) -> None:
    y = random((6, 7), dtype)
    radius = nk.norm(y, text) * (1 - below)
    assert nk.norm(y, text) > radius
    assert nk.norm(nk.project(y, text, radius), text) <= radius


def test_an_ulp_too_far_is_outside(name: str) -> None:
    y = random((11,))
    radius = math.nextafter(nk.norm(y, name), 0)
    assert nk.norm(nk.project(y, name, radius), name) <= radius


# --- radii ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", TEXTS)
def test_radius_zero_gives_zeros_not_nan(dtype: Any, text: str) -> None:
    assert not nk.project(random((4, 5), dtype), text, 0.0).any()


@pytest.mark.parametrize("text", TEXTS)
def test_groups_of_zeros_are_not_divided_by_their_norm(dtype: Any, text: str) -> None:
    y = random((4, 5), dtype)
    y[1], y[:, 2] = 0, 0
    x = nk.project(y, text, nk.norm(y, text) / 2)
    assert np.isfinite(x).all()
    assert not x[1].any()
    assert not x[:, 2].any()


@pytest.mark.parametrize("radius", [-1.0, -1e-300, math.nan, math.inf, -math.inf])
def test_a_radius_that_is_none_is_refused(radius: float) -> None:
    for y in (Y, np.zeros(3), np.empty(0)):
        with pytest.raises(ValueError, match=rf"^radius: must be finite and >= 0, got {radius}$"):
            nk.project(y, "l1", radius)


# --- NaN and infinity -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
@pytest.mark.parametrize("text", TEXTS)
def test_an_element_that_is_not_finite_is_named(layout: Any, dtype: Any, text: str, bad: float) -> None:
    for others in (np.zeros((4, 4), dtype), random((4, 4), dtype)):
        for i, j in ((0, 0), (2, 1), (3, 3)):
            y = others.copy()
            y[i, j] = bad
            for function, radius in ((nk.project, (1.0,)), (nk.norm, ())):
                with pytest.raises(ValueError, match=rf"^y: element \[{i}, {j}\] is {bad};"):
                    function(layout(y), text, *radius)


@pytest.mark.parametrize("axes", ["0,1", "1,0"])
def test_the_first_bad_element_in_c_order_is_named(axes: str) -> None:
    y = np.zeros((3, 3))
    y[1, 2], y[2, 0], y[2, 2] = math.inf, math.nan, math.nan
    with pytest.raises(ValueError, match=r"^y: element \[1, 2\] is inf; every element must be finite$"):
        nk.project(y, "l1,linf", 1.0, axes=axes)


def test_a_bad_scalar_is_named() -> None:
    with pytest.raises(ValueError, match=r"^y: element \[\] is nan;"):
        nk.project(np.array(math.nan), "l1", 1.0)


def test_a_bad_element_far_into_a_long_fibre_is_found(name: str, dtype: Any) -> None:
    y = np.zeros((2, 5000), dtype)
    y[1, 4567] = math.nan
    for lain in (y, np.asfortranarray(y)):
        with pytest.raises(ValueError, match=r"^y: element \[1, 4567\] is nan;"):
            nk.project(lain, f"l1,{name}", 1.0)


def test_a_norm_that_overflows_is_refused() -> None:
    y = np.full((2, 4), 6e307)
    for text in ("l1", "l2,l1", "linf,l1"):
        with pytest.raises(ValueError, match=rf"^y: its norm \({text} .*overflows"):
            nk.project(y, text, 1.0)


def test_squares_that_overflow_or_vanish_do_not_spoil_an_l2_norm() -> None:
    for scale in (6e307, 1e200, 1e-200, 1e-300):
        assert nk.norm(np.full((2, 2), scale), "l2") == pytest.approx(2 * scale, rel=1e-15)
        assert nk.norm(np.full((2, 4), scale), "linf,l2") == pytest.approx(2 * scale, rel=1e-15)


# --- more elements than an int32 counts -------------------------------------------------------------------------

BEYOND = 2**31


def test_fibres_longer_than_int32_are_aggregated_to_their_ends(name: str) -> None:
    """Untouched zeros share one page of memory, so that this takes address space, but no memory."""
    try:
        y = np.zeros(BEYOND + 70, np.float32)
    except MemoryError:
        pytest.skip("the machine grants no 8.6 GB of address space")
    y[7], y[BEYOND], y[-1] = 5, -4, 3
    assert nk.norm(y, name) == pytest.approx({"l1": 12, "l2": 50**0.5, "linf": 5}[name], rel=1e-15)


def test_more_elements_than_int32_are_counted() -> None:
    rows = BEYOND // 1024 + 1
    assert nk.norm(np.broadcast_to(np.ones(1024, np.float32), (rows, 1024)), "l1,l1") == rows * 1024


@pytest.mark.parametrize("axes", ["0,1", "1,0"], ids=["rows", "columns"])
def test_offsets_beyond_int32_are_read_and_written(tmp_path: Any, axes: str) -> None:
    """Sparse files span 8.8 GB each and hold a page for each of their rows."""
    shape, width = (BEYOND // 2**20 + 52, 2**20), 4
    y, out = (np.memmap(tmp_path / file, np.float32, "w+", shape=shape)[:, :width] for file in "yx")
    assert y.strides[0] // y.itemsize * len(y) > BEYOND
    y[...] = random(y.shape, np.float32)
    for text in ("l1,l1", "l1,l2", "l1,linf"):
        wanted = nk.project(np.array(y), text, 10.0, axes=axes)
        assert nk.project(y, text, 10.0, axes=axes, out=out) is out
        np.testing.assert_array_equal(out, wanted)


# --- threads ----------------------------------------------------------------------------------------------------


def test_threads_are_kept_not_created_in_every_call() -> None:
    y = random((16, 16))
    seen: set[int | None] = set()
    for _ in range(100):
        nk.project(y, "l1,l1", 1.0, threads=3)
        seen.update(thread.ident for thread in threading.enumerate())
    started = threading.active_count()
    for _ in range(100):
        nk.project(y, "l1,l1", 1.0, threads=3)
    assert threading.active_count() == started
    assert {thread.ident for thread in threading.enumerate()} <= seen


def test_one_thread_starts_none() -> None:
    before = threading.active_count()
    nk.project(random((16, 16)), "l1,l1", 1.0, threads=1)
    assert threading.active_count() == before


def test_calls_from_several_threads_do_not_disturb_each_other(bits: Any) -> None:
    tensors = [random((5, n)) for n in range(3, 15)]
    wanted = [bits(nk.project(y, "l1,l1", 1.0)) for y in tensors]
    got: dict[int, Any] = {}

    def repeat(i: int) -> None:
        for _ in range(20):
            got[i] = bits(nk.project(tensors[i], "l1,l1", 1.0, threads=2))

    callers = [threading.Thread(target=repeat, args=(i,)) for i in range(len(tensors))]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert [got[i] for i in range(len(tensors))] == wanted
