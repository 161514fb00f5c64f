"""Wrong arguments are refused by name; right ones are honoured, and the tensor is never changed."""

import operator
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from ml_dtypes import bfloat16, float8_e5m2
from numpy.lib.stride_tricks import as_strided

import normtree_kernels as nk

Y = np.array([[3, -1, 0.5], [1, 2, -0.5], [-2, 0.5, 0.25]])
RIGHT: dict[str, Any] = {"y": Y, "norm": "l1,linf", "radius": 2.0, "axes": "1,0", "threads": 1}


def frozen(y: Any) -> Any:
    y.flags.writeable = False
    return y


# the wrong argument, its value -> the error, and what it says after the argument's name
WRONG: list[tuple[str, Any, type[Exception], str]] = [
    ("y", Y.tolist(), TypeError, "wanted a numpy.ndarray, got list"),
    ("y", 1.0, TypeError, "wanted a numpy.ndarray, got float"),
    ("y", np.float64(1), TypeError, "wanted a numpy.ndarray, got float64"),
    ("y", None, TypeError, "wanted a numpy.ndarray, got NoneType"),
    ("y", Y.tobytes(), TypeError, "wanted a numpy.ndarray, got bytes"),
    ("y", np.ma.masked_array(Y, Y > 2), TypeError, "wanted a numpy.ndarray, got MaskedArray"),
    ("y", Y.astype(np.int64), TypeError, ".*got int64"),
    ("y", Y.astype(np.uint8, casting="unsafe"), TypeError, ".*got uint8"),
    ("y", Y.astype(np.complex128), TypeError, ".*got complex128"),
    ("y", Y.astype(object), TypeError, ".*got object"),
    ("y", Y > 0, TypeError, ".*got bool"),
    ("y", Y.astype(np.longdouble), TypeError, ".*got float128|.*got longdouble"),
    ("y", Y.astype(float8_e5m2), TypeError, ".*float16, bfloat16, got float8_e5m2"),
    ("y", Y.astype("S4"), TypeError, r".*got \|S4"),
    ("y", Y.view([("a", float)]), TypeError, ".*got "),
    ("norm", "l1,l3", ValueError, "unknown norm 'l3'"),
    ("norm", None, TypeError, "wanted text such as 'l1,linf', got NoneType"),
    ("norm", 1, TypeError, ".*got int"),
    ("axes", "0", ValueError, ".*2 levels"),
    ("axes", "0,0", ValueError, ".*exactly one level"),
    ("axes", "0,2", ValueError, "axis 2 is out of range"),
    ("axes", "a,b", ValueError, ".*'a'"),
    ("axes", 1, TypeError, ".*got int"),
    ("axes", (0, 1.0), TypeError, r".*got 1\.0"),
    ("axes", (0, (True,)), TypeError, ".*got True"),
    ("radius", "1", TypeError, "wanted a real number, got str"),
    ("radius", None, ValueError, "exactly one of radius, sparsity, groups is wanted, got none"),
    ("radius", True, TypeError, ".*got bool"),
    ("radius", np.True_, TypeError, ".*got bool"),
    ("radius", 1j, TypeError, ".*got complex"),
    ("radius", np.array(True), TypeError, "wanted a real number, got ndarray"),
    ("radius", np.array("1"), TypeError, "wanted a real number, got ndarray"),
    ("radius", np.array(1j), TypeError, "wanted a real number, got ndarray"),
    ("radius", np.timedelta64(1, "s"), TypeError, "wanted a real number, got timedelta64"),
    ("radius", np.array(-1.0), ValueError, r"must be finite and >= 0, got -1\.0"),
    ("radius", np.array([1.0]), TypeError, ".*got ndarray"),
    ("radius", float("nan"), ValueError, "must be finite and >= 0, got nan"),
    ("radius", np.float32("inf"), ValueError, "must be finite and >= 0, got inf"),
    ("radius", -1, ValueError, r"must be finite and >= 0, got -1\.0"),
    ("radius", -5e-324, ValueError, "must be finite and >= 0, got -5e-324"),
    ("radius", 10**400, ValueError, "must be finite and >= 0, got one that no float64 can hold"),
    ("threads", 0, ValueError, "must be >= 1, got 0"),
    ("threads", -1, ValueError, "must be >= 1, got -1"),
    ("threads", 1.5, TypeError, "wanted an integer, got float"),
    ("threads", True, TypeError, "wanted an integer, got bool"),
    ("threads", "2", TypeError, "wanted an integer, got str"),
    ("threads", None, TypeError, "wanted an integer, got NoneType"),
    ("out", Y.tolist(), TypeError, "wanted a numpy.ndarray, got list"),
    ("out", np.zeros((3, 3), np.float32), TypeError, "wanted dtype float64, got float32"),
    ("out", np.zeros((3, 3), bfloat16), TypeError, "wanted dtype float64, got bfloat16"),
    ("out", np.zeros((3, 3), ">f8"), TypeError, "wanted dtype float64, got >f8"),
    ("out", np.zeros((3, 4)), ValueError, r"wanted shape \(3, 3\), got \(3, 4\)"),
    ("out", np.zeros(9), ValueError, r"wanted shape \(3, 3\), got \(9,\)"),
    ("out", frozen(np.zeros((3, 3))), ValueError, ".*read-only"),
    ("out", Y.T, ValueError, "must be y itself or share no memory with y"),
    ("out", Y[::-1], ValueError, "must be y itself or share no memory with y"),
    (
        "out",
        as_strided(np.zeros(5), (3, 3), (8, 8)),
        ValueError,
        "wanted each element in memory of its own, got strides",
    ),
    (
        "out",
        as_strided(np.zeros(3), (3, 3), (0, 8)),
        ValueError,
        "wanted each element in memory of its own, got strides",
    ),
]

# what to give instead of a radius -> the error, and how its message begins
WRONG_CHOICES: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({}, ValueError, "radius: exactly one of radius, sparsity, groups is wanted, got none"),
    ({"radius": 1.0, "sparsity": 0.5}, ValueError, "radius: .* got radius and sparsity"),
    ({"radius": 0.0, "groups": 0}, ValueError, "radius: .* got radius and groups"),
    ({"sparsity": 0, "groups": 0}, ValueError, "radius: .* got sparsity and groups"),
    ({"radius": 1, "sparsity": 0, "groups": 0}, ValueError, "radius: .* got radius and sparsity and groups"),
    ({"sparsity": -0.1}, ValueError, "sparsity: wanted a share from 0 to 1, got -0.1"),
    ({"sparsity": 90}, ValueError, "sparsity: wanted a share from 0 to 1, got 90.0"),
    ({"sparsity": float("nan")}, ValueError, "sparsity: wanted a share from 0 to 1, got nan"),
    ({"sparsity": True}, TypeError, "sparsity: wanted a real number, got bool"),
    ({"sparsity": "0.5"}, TypeError, "sparsity: wanted a real number, got str"),
    ({"groups": -1}, ValueError, "groups: must be >= 0, got -1"),
    ({"groups": 4}, ValueError, "groups: wanted 0 to 3, .* got 4"),
    ({"groups": 2.0}, TypeError, "groups: wanted an integer, got float"),
    ({"groups": True}, TypeError, "groups: wanted an integer, got bool"),
    ({"groups": "2"}, TypeError, "groups: wanted an integer, got str"),
    ({"groups": np.array(2.0)}, TypeError, "groups: wanted an integer, got ndarray"),
    ({"groups": np.array([2])}, TypeError, "groups: wanted an integer, got ndarray"),
    ({"sparsity": np.array(True)}, TypeError, "sparsity: wanted a real number, got ndarray"),
]

WRONG_IDS = [f"{argument} {type(value).__name__}" for argument, value, *_ in WRONG]


class Scalar:
    """A number of another library's, as torch's tensors without axes are."""

    shape = ()

    def __init__(self, value: float, dtype: str) -> None:
        self._value, self.dtype = value, dtype

    def __float__(self) -> float:
        return float(self._value)

    def __index__(self) -> int:
        return operator.index(self._value)  # type: ignore[arg-type]


RADII = [
    2, 2.0, np.float32(2), np.int8(2), np.float64(2), Fraction(2), Decimal(2), np.array(2.0), np.array(2),
    np.array(2, np.float16), Scalar(2.0, "torch.float32"),
]  # fmt: skip


@pytest.mark.parametrize(("argument", "value", "error", "message"), WRONG, ids=WRONG_IDS)
def test_a_wrong_argument_is_refused_by_its_name(
    argument: str, value: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{argument}: ({message})"):
        nk.project(**{**RIGHT, argument: value})


@pytest.mark.parametrize(("argument", "value", "error", "message"), WRONG, ids=WRONG_IDS)
def test_norm_and_oracle_refuse_the_same(argument: str, value: Any, error: type[Exception], message: str) -> None:
    given = {**RIGHT, argument: value}
    for function, takes in (
        (nk.norm, ("y", "norm", "axes")),
        (nk.reference.norm, ("y", "norm", "axes")),
        (nk.reference.project, ("y", "norm", "radius", "axes")),
    ):
        if argument in takes:
            with pytest.raises(error, match=f"^{argument}: ({message})"):
                function(**{key: given[key] for key in takes})


@pytest.mark.parametrize("project", [nk.project, nk.reference.project], ids=["kernels", "oracle"])
@pytest.mark.parametrize(("given", "error", "message"), WRONG_CHOICES, ids=[str(given) for given, *_ in WRONG_CHOICES])
def test_exactly_one_right_choice_of_a_radius_is_taken(
    project: Any, given: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{message}"):
        project(Y, "l1,linf", axes="1,0", **given)


def test_every_way_to_choose_a_radius_and_a_point_is_honoured(layout: Any, dtype: Any) -> None:
    y = layout(Y.astype(dtype))
    for given in ({"radius": 3.0}, {"sparsity": 0.5}, {"groups": 1}, {"radius": 3.0, "exact": True}):
        out = np.empty_like(y)
        assert nk.project(y, "l1,linf", **given, axes="1,0", out=out) is out
        assert out.dtype == y.dtype
        assert out.any()
        assert (out != y).any()


def test_half_precision_is_projected_as_its_values_are(layout: Any, dtype: Any) -> None:
    y = layout(Y.astype(dtype))  # exact in every dtype
    for text, radius in (("l1,linf", 3.0), ("l1,l1", 3.0), ("l1", 5.5), ("linf", 1.0)):
        x = nk.project(y, text, radius, axes="1,0" if "," in text else None)
        wanted = nk.project(Y, text, radius, axes="1,0" if "," in text else None)
        assert x.dtype == y.dtype
        np.testing.assert_allclose(x.astype(np.float64), wanted, rtol=2.0**-7)


def test_out_that_overlaps_in_part_is_refused() -> None:
    memory = np.arange(20.0)
    for y, out in ((memory[:10], memory[9:19]), (memory[::2], memory[1:11]), (memory[5:15], memory[14:4:-1])):
        with pytest.raises(ValueError, match=r"^out: must be y itself or share no memory with y"):
            nk.project(y, "l1", 1.0, out=out)


def test_a_refused_call_leaves_out_alone() -> None:
    out = np.full((3, 3), 7.0)
    for wrong in ({"radius": -1.0}, {"y": np.full((3, 3), np.nan)}, {"axes": "0,0"}):
        with pytest.raises(ValueError, match=":"):
            nk.project(**{**RIGHT, "out": out, **wrong})
    assert (out == 7).all()


@pytest.mark.parametrize("radius", RADII, ids=[type(radius).__name__ for radius in RADII])
def test_any_real_number_is_a_radius(radius: Any) -> None:
    np.testing.assert_array_equal(nk.project(**{**RIGHT, "radius": radius}), nk.project(**RIGHT))


def test_a_bound_norm_replaces_text_and_axes() -> None:
    bound = nk.MixedNorm.parse("l1,linf", "1,0", ndim=2)
    np.testing.assert_array_equal(nk.project(Y, bound, 2.0), nk.project(**RIGHT))
    assert nk.norm(Y, bound) == nk.norm(Y, "l1,linf", axes="1,0")


def test_out_is_written_and_returned(layout: Any, dtype: Any, name: str) -> None:
    y = Y.astype(dtype)
    room = np.full((9, 9), 7, dtype)
    for out in (np.full((3, 3), 7, dtype), np.full((3, 3), 7, dtype, "F"), room[::3, ::-3], room[2:5, 2:5].T):
        assert nk.project(layout(y).astype(dtype), f"l1,{name}", 2.0, out=out, threads=2) is out
        np.testing.assert_array_equal(out, nk.project(y, f"l1,{name}", 2.0))


def test_out_is_written_inside_its_view_only() -> None:
    room = np.full((7, 7), 7.0)
    nk.project(Y, "l1,l1", 2.0, out=room[1::2, 1::2])
    room[1::2, 1::2] = 7
    assert (room == 7).all()


def test_out_may_lie_between_the_elements_of_y() -> None:
    memory = np.ones(12)
    y, out = memory[::2], memory[1::2]
    assert nk.project(y, "l1", 3.0, out=out) is out
    assert (memory.reshape(6, 2) == [1, 0.5]).all()


@pytest.mark.parametrize("text", ["l1", "l2", "linf", "l1,l1", "l1,l2", "l1,linf"])
@pytest.mark.parametrize("radius", [0.0, 1.0, 100.0])
def test_the_tensor_is_never_changed_nor_returned(layout: Any, bits: Any, dtype: Any, text: str, radius: float) -> None:
    y = layout(Y.astype(dtype))
    before = bits(y)
    for threads in (1, 2):
        x = nk.project(y, text, radius, threads=threads)
        assert not np.shares_memory(x, y)
        assert bits(y) == before
    assert x.flags.writeable
    assert nk.norm(y, text) >= 0
    assert bits(y) == before


def test_subclasses_come_back_as_plain_arrays(tmp_path: Any) -> None:
    y = np.memmap(tmp_path / "y", np.float64, "w+", shape=(3, 3))
    y[...] = Y
    x = nk.project(y, "l1,linf", 2.0, axes="1,0")
    assert type(x) is np.ndarray
    np.testing.assert_array_equal(x, nk.project(**RIGHT))


def test_byte_order_is_kept() -> None:
    x = nk.project(Y.astype(">f4"), "l1,linf", 2.0, axes="1,0")
    assert x.dtype == np.dtype(">f4")
    np.testing.assert_array_equal(x, nk.project(**RIGHT))
