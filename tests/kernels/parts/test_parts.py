"""Fibres cut into parts give the bits of whole ones: their norms, their l1 thresholds, their projections."""

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from ml_dtypes import bfloat16
from numpy.typing import NDArray

from normtree_kernels import Level, MixedNorm
from normtree_kernels.compiled.lanes import CHUNK, chunk_count
from normtree_kernels.dtypes import ACCEPTED
from normtree_kernels.norms.mixed_norm import NORMS
from normtree_kernels.parts.gathered import Gathered
from normtree_kernels.parts.part import Part, fold
from normtree_kernels.parts.questions import Answer, Norms, Question
from normtree_kernels.sweeps import sweep
from normtree_kernels.tree.blocks import Block, split_fibres
from normtree_kernels.tree.pieces import as_piece
from normtree_kernels.tree.projection import drive
from normtree_kernels.vector_norm import Norm

Array = NDArray[Any]
NEAR_A_CHUNK = st.builds(lambda chunks, more: CHUNK * chunks + more, st.integers(1, 9), st.integers(-3, 3))
FIBRES = MixedNorm.parse("l1,l1", ndim=2)


def fibres(count: int, length: int, dtype: Any, layout: str, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    y = (rng.standard_t(3, (count, length)) * 10.0 ** rng.integers(-3, 3)).astype(dtype)
    y[rng.random(y.shape) < 0.05] = 0
    return {"rows": y, "columns": np.asfortranarray(y), "strided": np.repeat(y, 2, axis=1)[:, ::2]}[layout]


def project_in_parts(norm: Norm, y: Array, u: Array, blocks: tuple[Block, ...]) -> tuple[Array, Array]:
    """Project as a home does: norms up, folded; where it is a search, rounds of questions to all parts; parts down."""
    mixed = MixedNorm((Level("l1", (0,)), Level(norm, (1,))))
    pieces = [as_piece(y.shape, mixed, block) for block in blocks]

    def ask(question: Question) -> Answer:
        gathered = Gathered.of_shape(question, chunk_count(y.shape[1]), y.shape[:1])
        for piece in pieces:
            if question.concerns(piece.start):
                gathered.put(piece.slots, piece.fibres, question.of(piece.part(y)))
        return gathered.whole

    v = fold(norm, ask(Norms(norm))[0])
    balls = drive(norm.search(v, u, y.shape[1], y.dtype), ask)
    x = np.empty_like(y, order="C")
    for piece in pieces:
        piece.project(mixed, y, balls, x)
    return v, x


@pytest.mark.parametrize("norm", NORMS.values(), ids=str)
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
    norm: Norm, count: int, length: int, blocks: int, dtype: str, layout: str, share: float, seed: int
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


@pytest.mark.parametrize("norm", NORMS.values(), ids=str)
def test_a_fibre_of_more_chunks_than_a_chunk_has_elements(norm: Norm) -> None:
    y = fibres(1, CHUNK * CHUNK * 2 + 5, np.float32, "rows", 1)
    v = sweep.up(norm, y, 1)
    x = np.empty_like(y)
    sweep.down(norm, y, 1, v, 0.1 * v, x)
    folded, projected = project_in_parts(norm, y, 0.1 * v, split_fibres(y.shape, FIBRES, 3))
    assert (folded.tobytes(), projected.tobytes()) == (v.tobytes(), x.tobytes())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("norm", NORMS.values(), ids=str)
def test_a_bad_element_is_seen_in_the_norm(norm: Norm, bad: float) -> None:
    y = fibres(1, 5 * CHUNK, bfloat16, "rows", 1)
    y[0, 4 * CHUNK + 1] = bad
    v = fold(norm, Part(y, 1, y.shape[1], in_chunks=True).norms(norm))
    assert not np.isfinite(v).any()


@pytest.mark.parametrize(
    ("shape", "norm", "axes", "count", "wanted"),
    [
        ((10 * CHUNK,), "l1", None, 3, [(0, 3 * CHUNK), (3 * CHUNK, 6 * CHUNK), (6 * CHUNK, 10 * CHUNK)]),
        ((2 * CHUNK + 1,), "l2", None, 7, [(0, CHUNK), (CHUNK, 2 * CHUNK + 1)]),
        ((3, 2, CHUNK), "l1,l2", None, 2, [(0, CHUNK), (CHUNK, 2 * CHUNK)]),
        ((2, 1, CHUNK), "l1,l2", "1,0.2", 2, [(0, CHUNK), (CHUNK, 2 * CHUNK)]),
        ((2, 3, CHUNK), "l1,l2", "1,0.2", 2, [None]),
        ((3, 2 * CHUNK - 1), "l1,l2", None, 2, [(0, 2 * CHUNK - 1)]),
        ((0, 2 * CHUNK), "l1,l2", None, 2, [None]),
        ((10 * CHUNK,), "l1", None, 1, [(0, 10 * CHUNK)]),
        ((), "l1", None, 2, [(0, 1)]),
    ],
)
def test_parts_end_where_chunks_do(
    shape: tuple[int, ...], norm: str, axes: str | None, count: int, wanted: list[tuple[int, int] | None]
) -> None:
    blocks = split_fibres(shape, MixedNorm.parse(norm, axes, ndim=len(shape)), count)
    assert [block.part for block in blocks] == wanted


@pytest.mark.parametrize("norm", NORMS.values(), ids=str)
@pytest.mark.parametrize("kind", ["rows", "columns", "strided"])
def test_a_part_of_one_element_is_not_a_fibre_of_one(norm: Norm, kind: str) -> None:
    y = fibres(3, CHUNK + 1, np.float32, kind, 5)
    v = sweep.up(norm, y, 1)
    last = Part(y[:, CHUNK:], 1, CHUNK + 1, in_chunks=True)
    x, wanted = np.empty_like(last.fibres), np.empty_like(y)
    sweep.down(norm, y, 1, v, v / 2, wanted)
    levels = drive(
        norm.search(v, v / 2, CHUNK + 1, y.dtype), lambda question: question.of(Part(y, 1, CHUNK + 1, in_chunks=True))
    )
    last.project(norm, levels, x)
    assert x.tobytes() == wanted[:, CHUNK:].tobytes()
