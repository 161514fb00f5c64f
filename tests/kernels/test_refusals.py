"""A refusal tells its parts one by one, in words, and on the other side of a process border."""

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ml_dtypes import bfloat16

import normtree_kernels as nk
from normtree_kernels.refusals import Refusal, TypeRefused, ValueRefused
from normtree_kernels.tree.blocks import split

Y = np.array([[3, -1, 0.5], [1, 2, -0.5]])
NAN, INF, HUGE = Y.astype(bfloat16), Y.astype(np.float32), np.full((2, 3), 1e308)
NAN[1, 2], INF[0, 1] = math.nan, -math.inf

# what is called, and the name, the bound and the value that its refusal tells
REFUSED: list[tuple[Callable[[], Any], type[Refusal], str, Any, Any]] = [
    (lambda: nk.norm(NAN, "l1,linf"), ValueRefused, "y", "finite elements", math.nan),
    (lambda: nk.project(INF, "l1,linf", 1.0), ValueRefused, "y", "finite elements", -math.inf),
    (lambda: nk.project(INF, "l1", sparsity=0.5), ValueRefused, "y", "finite elements", -math.inf),
    (lambda: nk.certify(Y, np.full((2, 3), math.nan), "l1", 1.0), ValueRefused, "x", "finite elements", math.nan),
    (lambda: nk.norm(HUGE, "l1"), ValueRefused, "y", "a finite norm", math.inf),
    (lambda: nk.project(HUGE[:1], "l1,linf", 1.0, exact=True), ValueRefused, "y", "finite sums of groups' magnitudes",
     math.inf),
    (lambda: nk.norm([1.0], "l1"), TypeRefused, "y", "a numpy.ndarray", "list"),  # type: ignore[arg-type]
    (lambda: nk.norm(Y > 0, "l1"), TypeRefused, "y", "dtype float64, float32, float16, bfloat16", "bool"),
    (lambda: nk.certify(Y, Y[:1], "l1", 1.0), ValueRefused, "x", "shape (2, 3) and dtype float64 as y",
     "(1, 3) and float64"),
    (lambda: nk.norm(Y, "l1,l3"), ValueRefused, "norm", "one of l1, l2, linf", "l3"),
    (lambda: nk.norm(Y, 5), TypeRefused, "norm", "text such as 'l1,linf'", "int"),  # type: ignore[arg-type]
    (lambda: nk.norm(Y, "l1,l1,l1"), ValueRefused, "norm", 2, 3),
    (lambda: nk.norm(Y, nk.MixedNorm((nk.Level("l1", (0,)),))), ValueRefused, "norm", 2, 1),
    (lambda: nk.norm(Y, "l1,linf", axes="0"), ValueRefused, "axes", 2, 1),
    (lambda: nk.norm(Y, "l1,linf", axes="0,0"), ValueRefused, "axes", "each axis in exactly one level", "0,0"),
    (lambda: nk.norm(Y, "l1", axes="0.x"), ValueRefused, "axes", "integers, levels by commas and axes by dots", "x"),
    (lambda: nk.norm(Y, "l1", axes="0.2"), ValueRefused, "axes", "axes >= -2 and < 2", 2),
    (lambda: nk.norm(Y, "l1", axes=(0.5,)), TypeRefused, "axes", "integers", "0.5"),  # type: ignore[arg-type]
    (lambda: nk.Level("l1", (1, 0)), ValueRefused, "axes", "distinct ascending axes >= 0", "(1, 0)"),
    (lambda: nk.MixedNorm(()), ValueRefused, "norm", "1 to 8 levels", 0),
    (lambda: nk.project(Y, "l1", -1), ValueRefused, "radius", "finite and >= 0", -1.0),
    (lambda: nk.project(Y, "l1", 10**400), ValueRefused, "radius", "finite and >= 0", "one that no float64 can hold"),
    (lambda: nk.project(Y, "l1", "1"), TypeRefused, "radius", "a real number", "str"),  # type: ignore[arg-type]
    (lambda: nk.project(Y, "l1"), ValueRefused, "radius", "exactly one of radius, sparsity, groups", "none"),
    (lambda: nk.project(Y, "l1", sparsity=2), ValueRefused, "sparsity", "a share from 0 to 1", 2.0),
    (lambda: nk.project(Y, "l2,l1", groups=1), ValueRefused, "groups", "an outermost l1 level", "l2"),
    (lambda: nk.project(Y, "l1,l2", groups=3), ValueRefused, "groups", "0 to 2, the outermost groups there are", 3),
    (lambda: nk.project(Y, "l1", groups=-1), ValueRefused, "groups", ">= 0", -1),
    (lambda: nk.radius_for(Y, "l1"), ValueRefused, "sparsity", "exactly one of sparsity and groups", "none"),
    (lambda: nk.project(Y, "l1", 1.0, threads=0), ValueRefused, "threads", ">= 1", 0),
    (lambda: nk.project(Y, "l1", 1.0, out=Y[:1]), ValueRefused, "out", "shape (2, 3)", "(1, 3)"),
    (lambda: nk.project(Y, "l1", 1.0, out=Y[::-1]), ValueRefused, "out", "y itself or share no memory with y",
     "one that overlaps it"),
    (lambda: nk.project(Y, "l1,linf", groups=1, exact=True), ValueRefused, "exact", "a radius", "1 groups"),
    (lambda: nk.project(Y, "l2,l1", 1.0, exact=True), ValueRefused, "exact",
     "l1,linf, or l1,l2, or one level, or linf over these", "l2,l1"),
    (lambda: split((2,), nk.MixedNorm.parse("l1", ndim=1), 0), ValueRefused, "count", "at least one block", 0),
]  # fmt: skip


def refusal(call: Callable[[], Any]) -> Refusal:
    with pytest.raises(Refusal) as caught:
        call()
    return caught.value


def parts(error: Refusal) -> tuple[object, ...]:
    """All that is told; repr, for NaN equals nothing."""
    return type(error), error.name, error.wanted, repr(error.got), error.why, str(error)


@pytest.mark.parametrize(("call", "kind", "name", "wanted", "got"), REFUSED)
def test_each_part_is_told(call: Callable[[], Any], kind: type[Refusal], name: str, wanted: Any, got: Any) -> None:
    error = refusal(call)
    assert isinstance(error, ValueError if kind is ValueRefused else TypeError)
    assert parts(error)[:4] == (kind, name, wanted, repr(got))
    assert str(error) == f"{name}: {error.why}"


@pytest.mark.parametrize("call", [call for call, *_ in REFUSED])
def test_it_survives_a_process_border(call: Callable[[], Any]) -> None:
    error = refusal(call)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert parts(pickle.loads(pickle.dumps(error, protocol))) == parts(error)
    assert parts(copy.copy(error)) == parts(error)


def test_it_says_the_same_of_another_name() -> None:
    error = refusal(lambda: nk.norm(NAN, "l1,linf"))
    assert str(error) == "y: element [1, 2] is nan; every element must be finite"
    other = error.about("tensor")
    assert str(other) == "tensor: element [1, 2] is nan; every element must be finite"
    assert (type(other), other.wanted, repr(other.got)) == (ValueRefused, "finite elements", "nan")
    assert str(error).startswith("y: ")


def test_the_words_are_those_for_what_was_wanted_and_given() -> None:
    assert str(ValueRefused("radius", ">= 0", -1)) == "radius: wanted >= 0, got -1"
    assert str(TypeRefused("radius", "a number", "str", "no number")) == "radius: no number"
