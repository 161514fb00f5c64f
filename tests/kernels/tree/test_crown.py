"""Several tensors under one root are projected as one tensor that holds them all, in whatever order they come."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import normtree_kernels as nk
from normtree_kernels.arrays import Held
from normtree_kernels.tree.crown import Crown, crown, crowns
from normtree_kernels.tree.goal import Goal

Array = NDArray[Any]
TEXTS = ["l1,linf", "l1,l2", "l1,l1", "l2,linf", "linf,l1", "l1,l2,linf", "l2,l1,l2"]


def random(sizes: list[int], text: str, seed: int = 0) -> list[Array]:
    """Make tensors of as many outermost groups as told, and the same inner axes."""
    rng = np.random.default_rng(seed)
    inner = (5, 7)[: text.count(",")]
    return [rng.standard_t(3, (size, *inner)) for size in sizes]


def bound(text: str, ys: list[Array]) -> list[nk.MixedNorm]:
    return [nk.MixedNorm.parse(text, ndim=y.ndim) for y in ys]


def together(text: str, ys: list[Array], goal: Goal) -> list[Crown]:
    norms = bound(text, ys)
    return crowns(norms, [Held(y, norm).norms() for y, norm in zip(ys, norms, strict=True)], goal)


def project(text: str, ys: list[Array], goal: Goal) -> list[Array]:
    xs = [np.empty_like(y) for y in ys]
    for y, x, norm, top in zip(ys, xs, bound(text, ys), together(text, ys, goal), strict=True):
        Held(y, norm).project((Held(y, norm).norms(), top.radii), x)
    return xs


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.999, 1.5])
def test_it_equals_the_oracle_on_the_tensors_laid_end_to_end(text: str, share: float) -> None:
    ys = random([3, 40, 1, 12], text)
    joined = np.concatenate(ys)
    radius = share * nk.norm(joined, text)
    x = np.concatenate(project(text, ys, Goal(radius)))
    np.testing.assert_allclose(x, nk.reference.project(joined, text, radius), rtol=1e-12, atol=1e-13 * radius)
    assert nk.norm(x, text) <= radius or share > 1
    if share > 1:
        assert x.tobytes() == joined.tobytes()


@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=6), seed=st.integers(0, 2**32 - 1), data=st.data())
@pytest.mark.parametrize("text", TEXTS)
def test_the_order_of_the_tensors_changes_no_bit(text: str, sizes: list[int], seed: int, data: st.DataObject) -> None:
    ys = random(sizes, text, seed)
    radius = 0.3 * nk.norm(np.concatenate(ys), text)
    order = data.draw(st.permutations(range(len(ys))))
    here, there = together(text, ys, Goal(radius)), together(text, [ys[i] for i in order], Goal(radius))
    for i, top in zip(order, there, strict=True):
        assert top.radii.tobytes() == here[i].radii.tobytes()
        assert (top.norm, top.inside) == (here[i].norm, here[i].inside)


def test_tensors_of_equal_size_are_told_apart_by_their_values() -> None:
    ys = random([200] * 6, "l1,l2")
    backwards = together("l1,l2", ys[::-1], Goal(50.0))[::-1]
    assert [top.radii.tobytes() for top in together("l1,l2", ys, Goal(50.0))] == [
        top.radii.tobytes() for top in backwards
    ]


@pytest.mark.parametrize("text", TEXTS)
def test_one_tensor_has_the_bits_of_its_own_projection(text: str) -> None:
    (y,) = random([30], text)
    norm = nk.MixedNorm.parse(text, ndim=y.ndim)
    v = Held(y, norm).norms()
    radius = 0.2 * nk.norm(y, text)
    (top,), alone = crowns([norm], [v], Goal(radius)), crown(norm, v, Goal(radius))
    assert top.radii.tobytes() == alone.radii.tobytes()
    assert (top.norm, top.inside) == (alone.norm, alone.inside)


def test_tensors_may_differ_in_rank_axes_and_inner_norms() -> None:
    rng = np.random.default_rng(5)
    matrix, filters = rng.standard_normal((6, 9)), rng.standard_normal((4, 3, 2, 2))
    norms = [nk.MixedNorm.parse("l1,linf", "1,0", ndim=2), nk.MixedNorm.parse("l1,l2", "0,1.2.3", ndim=4)]
    vs = [Held(y, norm).norms() for y, norm in zip((matrix, filters), norms, strict=True)]
    tops = crowns(norms, vs, Goal(7.0))
    u = nk.reference.project(np.concatenate(vs), "l1", 7.0)
    np.testing.assert_allclose(np.concatenate([top.radii for top in tops]), u, rtol=1e-13)
    assert [top.norm for top in tops] == [
        nk.norm(matrix, "l1,linf", axes="1,0"),
        nk.norm(filters, "l1,l2", axes="0,1.2.3"),
    ]


@pytest.mark.parametrize("share", [0.0, 0.25, 0.9, 1.0])
def test_a_goal_is_met_over_all_groups_together(share: float) -> None:
    ys = random([10, 50, 40], "l1,linf")
    ys[1] *= 0.01  # one tensor's groups are all small: alone it would keep its share
    xs = project("l1,linf", ys, Goal(sparsity=share))
    zero = [int((x == 0).all(axis=1).sum()) for x in xs]
    assert sum(zero) == share * 100
    assert share not in (0.25,) or zero == [0, 25, 0]


def test_no_radius_is_found_where_a_norm_is_not_finite() -> None:
    ys = random([3, 4], "l1,linf")
    ys[1][2, 3] = np.nan
    tops = together("l1,linf", ys, Goal(groups=2))
    assert [np.isfinite(top.norm) for top in tops] == [True, False]
    assert all(np.isnan(top.radius) and not top.inside for top in tops)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "one outermost norm for all tensors is wanted, got none"),
        (["l1,l2", "l2,l2"], "one outermost norm for all tensors is wanted, got l1, l2"),
        (["l1", "l1"], "two levels or more, got one level"),
    ],
)
def test_norms_without_a_common_root_are_refused(texts: list[str], message: str) -> None:
    norms = [nk.MixedNorm.parse(text, ndim=2) for text in texts]
    with pytest.raises(ValueError, match=message):
        crowns(norms, [np.ones([3] * len(norm.kept_axes)) for norm in norms], Goal(1.0))
