"""Axes seen as several: how they are written, and what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import normtree_kernels as nk
from normtree.compact import compress, expand
from normtree.engine.projector import Projector
from normtree.errors import InvalidParameter, InvalidTensor
from normtree.splits import NO_SPLIT, Split, parse_split


@pytest.mark.parametrize(
    ("text", "shape", "seen", "owners"),
    [
        (None, (6, 4), (6, 4), [0, 1]),
        (" ", (6, 4), (6, 4), [0, 1]),
        ("0:3", (6, 4), (3, 2, 4), [0, 0, 1]),
        ("1:2", (6, 4), (6, 2, 2), [0, 1, 1]),
        ("1:3:12", (768, 2304), (768, 3, 12, 64), [0, 1, 1, 1]),
        (" 2:4 , 0:3:1 ", (6, 5, 8), (3, 1, 2, 5, 4, 2), [0, 0, 0, 1, 2, 2]),
        ("0:6", (6,), (6, 1), [0, 0]),
        ("0:2", (0, 3), (2, 0, 3), [0, 0, 1]),
    ],
)
def test_a_shape_is_seen_in_parts(
    text: str | None, shape: tuple[int, ...], seen: tuple[int, ...], owners: list[int]
) -> None:
    split = parse_split(text)
    assert (split.seen(shape), split.owners(len(shape)), split.own(seen)) == (seen, owners, shape)
    assert split.added == len(seen) - len(shape)
    assert parse_split(str(split)) == split


@given(st.dictionaries(st.integers(0, 4), st.lists(st.integers(1, 4), min_size=1, max_size=3)), st.data())
def test_elements_stay_where_they_are(parts: dict[int, list[int]], data: st.DataObject) -> None:
    split = Split(tuple((axis, tuple(sizes)) for axis, sizes in parts.items()))
    shape = [int(np.prod(parts.get(axis, [1]))) * data.draw(st.integers(1, 2)) for axis in range(5)]
    assert parse_split(str(split)) == split
    assert split.own(split.seen(shape)) == tuple(shape)
    y = np.empty(shape, np.uint8)
    assert np.shares_memory(y.reshape(split.seen(shape)), y)


@pytest.mark.parametrize("text", ["0", "0:", ":3", "a:3", "0:-1", "-1:3", "0:3;1:2", "0:3,", "0:1.5", "0:٣", "x" * 500])
def test_what_is_no_split_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^split: wanted axes and the sizes they begin with, such as 0:12"):
        parse_split(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0:3,0:2", "split: wanted each axis once, got '0:3,0:2'"),
        ("0:0", "split: wanted sizes of 1 or more, got '0:0'"),
    ],
)
def test_what_cannot_be_is_told(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_split(text)


def test_a_tensor_that_it_does_not_fit_is_told() -> None:
    with pytest.raises(ValueError, match=r"^split: axis 2 is out of range for a tensor of 2 axes$"):
        parse_split("2:3").seen((6, 4))
    with pytest.raises(ValueError, match=r"^split: 2 × 5 must divide axis 1, got a length of 12 in \(6, 12\)$"):
        parse_split("1:2:5").seen((6, 12))
    assert [parse_split("2:3").reaches(rank) for rank in (2, 3)] == [False, True]
    assert NO_SPLIT.reaches(0)


def test_a_plan_sees_the_tensor_in_parts_and_gives_it_back_whole(projector: Projector) -> None:
    y = np.random.default_rng(0).standard_normal((24, 10)).astype(np.float32)
    for engine in ("inline", "ray"):
        plan = projector.plan((24, 10), "<f4", norm="l1,linf", groups=3, split="0:6", engine=engine)
        assert (plan.shape, plan.own_shape) == ((6, 4, 10), (24, 10))
        assert "24 × 10, seen as 6 × 4 × 10, float32" in str(plan)
        x, timing = projector.project_array(y, plan)
        assert x.tobytes() == nk.project(y.reshape(6, 4, 10), "l1,linf", groups=3).tobytes()
        assert (x.shape, timing.shape) == ((24, 10), (6, 4, 10))
    y[13, 7] = np.nan
    with pytest.raises(InvalidTensor, match=r"element \[13, 7\] is nan"):
        projector.project_array(y, plan)
    for split, message in (
        ("0:5", "5 must divide axis 0"),
        ("2:5", "axis 2 is out of range"),
        ("0", "wanted axes and"),
    ):
        with pytest.raises(InvalidParameter, match=f"^split: {message}") as refused:
            projector.plan((24, 10), "<f4", norm="l1,linf", groups=3, split=split)
        assert refused.value.pointer == "split"


@pytest.mark.parametrize("axes", [[1], [0], [1, 2], [0, 2]])
def test_groups_of_a_compact_form_are_put_back(axes: list[int]) -> None:
    y = np.random.default_rng(0).standard_normal((24, 10))
    norm = nk.MixedNorm.parse(
        "l1,linf", ".".join(map(str, axes)) + "," + ".".join(str(axis) for axis in range(3) if axis not in axes), ndim=3
    )
    x = nk.project(y.reshape(6, 4, 10), norm, sparsity=0.5)
    form = compress(x, axes)
    np.testing.assert_array_equal(expand(form.index, form.values, y.shape, axes, "0:6"), x.reshape(y.shape))
