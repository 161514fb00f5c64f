"""Fibres cut into parts give the bits of whole ones: their norms, their l1 thresholds, their projections."""

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from ml_dtypes import bfloat16
from numpy.typing import NDArray

from normtree_kernels import MixedNorm, parts, sweep
from normtree_kernels.blocks import Block, split_fibres
from normtree_kernels.dtypes import ACCEPTED
from normtree_kernels.lanes import CHUNK

Array = NDArray[Any]
NEAR_A_CHUNK = st.builds(lambda chunks, more: CHUNK * chunks + more, st.integers(2, 9), st.integers(-3, 3)).filter(
    lambda length: length >= 2 * CHUNK
)
FIBRES = MixedNorm.parse("l1,l1", ndim=2)


def fibres(count: int, length: int, dtype: Any, layout: str, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    y = (rng.standard_t(3, (count, length)) * 10.0 ** rng.integers(-3, 3)).astype(dtype)
    y[rng.random(y.shape) < 0.05] = 0
    return {"rows": y, "columns": np.asfortranarray(y), "strided": np.repeat(y, 2, axis=1)[:, ::2]}[layout]


def project_in_parts(norm: str, y: Array, u: Array, blocks: tuple[Block, ...]) -> tuple[Array, Array]:
    """Project as an engine does: parts up, folded; for l1 rounds of sums over all parts; parts down."""
    cuts = [block.part for block in blocks if block.part]
    v = parts.fold(norm, np.concatenate([parts.chunk_norms(norm, parts.merge(y, 1)[:, slice(*cut)]) for cut in cuts]))
    x = np.empty_like(y, order="C")
    if norm != "l1":
        for cut in cuts:
            parts.down(norm, parts.merge(y, 1)[:, slice(*cut)], v, u, parts.merge(x, 1)[:, slice(*cut)])
        return v, x
    search = parts.Thresholds(v, u, y[:, : parts.SAMPLE].astype(np.float64), y.shape[1], y.dtype)
    while search.asked:
        answers = [parts.excesses(parts.merge(y, 1)[:, slice(*cut)], search.asked) for cut in cuts]
        search.answer(*(np.concatenate([answer[i] for answer in answers]) for i in (0, 1)))
    for cut in cuts:
        parts.shrink(parts.merge(y, 1)[:, slice(*cut)], search.found, parts.merge(x, 1)[:, slice(*cut)])
    return v, x


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
@given(
    count=st.integers(1, 3),
    length=NEAR_A_CHUNK,
    blocks=st.integers(2, 7),
    dtype=st.sampled_from(ACCEPTED),
    layout=st.sampled_from(["rows", "columns", "strided"]),
    share=st.sampled_from([1e-300, 1e-17, 1e-6, 0.01, 0.3, 0.99, 0.9999999999, 1.0, 2.0]),
    seed=st.integers(0, 2**32 - 1),
)
@example(count=3, length=9215, blocks=4, dtype=np.dtype("f8"), layout="columns", share=0.9999999999, seed=915612028)
def test_parts_have_the_bits_of_the_whole(
    norm: str, count: int, length: int, blocks: int, dtype: str, layout: str, share: float, seed: int
) -> None:
    y = fibres(count, length, dtype, layout, seed)
    v = sweep.up(norm, y, 1)
    u = share * v
    u[0] = 0.0 if share == 0.01 else u[0]
    x = np.empty_like(y, order="C")
    sweep.down(norm, y, 1, v, u, x)
    folded, projected = project_in_parts(norm, y, u, split_fibres(y.shape, FIBRES, blocks))
    assert folded.tobytes() == v.tobytes()
    assert projected.tobytes() == x.tobytes()


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_a_fibre_of_more_chunks_than_a_chunk_has_elements(norm: str) -> None:
    y = fibres(1, CHUNK * CHUNK * 2 + 5, np.float32, "rows", 1)
    v = sweep.up(norm, y, 1)
    x = np.empty_like(y)
    sweep.down(norm, y, 1, v, 0.1 * v, x)
    folded, projected = project_in_parts(norm, y, 0.1 * v, split_fibres(y.shape, FIBRES, 3))
    assert (folded.tobytes(), projected.tobytes()) == (v.tobytes(), x.tobytes())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_a_bad_element_is_seen_in_the_norm(norm: str, bad: float) -> None:
    y = fibres(1, 5 * CHUNK, bfloat16, "rows", 1)
    y[0, 4 * CHUNK + 1] = bad
    v = parts.fold(norm, parts.chunk_norms(norm, y))
    assert not np.isfinite(v).any()


@pytest.mark.parametrize(
    ("shape", "norm", "axes", "count", "wanted"),
    [
        ((10 * CHUNK,), "l1", None, 3, [(0, 3 * CHUNK), (3 * CHUNK, 6 * CHUNK), (6 * CHUNK, 10 * CHUNK)]),
        ((2 * CHUNK + 1,), "l2", None, 7, [(0, CHUNK), (CHUNK, 2 * CHUNK + 1)]),
        ((3, 2, CHUNK), "l1,l2", None, 2, [(0, CHUNK), (CHUNK, 2 * CHUNK)]),
        ((2, 1, CHUNK), "l1,l2", "1,0.2", 2, [(0, CHUNK), (CHUNK, 2 * CHUNK)]),
        ((2, 3, CHUNK), "l1,l2", "1,0.2", 2, [None]),
        ((3, 2 * CHUNK - 1), "l1,l2", None, 2, [None]),
        ((0, 2 * CHUNK), "l1,l2", None, 2, [None]),
        ((10 * CHUNK,), "l1", None, 1, [None]),
        ((), "l1", None, 2, [None]),
    ],
)
def test_parts_end_where_chunks_do(
    shape: tuple[int, ...], norm: str, axes: str | None, count: int, wanted: list[tuple[int, int] | None]
) -> None:
    blocks = split_fibres(shape, MixedNorm.parse(norm, axes, ndim=len(shape)), count)
    assert [block.part for block in blocks] == wanted
