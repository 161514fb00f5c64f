"""Pieces: together they are the block, and each is swept in tens of milliseconds."""

from math import prod
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from normtree_kernels.norms.mixed_norm import NORMS, MixedNorm
from normtree_kernels.tree.blocks import Block, split
from normtree_kernels.tree.pieces import cut_pieces

MIB = 2**20


def lengths(shape: tuple[int, ...], axes: str, norm: str, dtype: str = "float32") -> list[tuple[int, ...]]:
    """The shapes of a whole tensor's pieces, their axes in the tensor's order."""
    mixed = MixedNorm.parse(norm, axes, ndim=len(shape))
    outline = np.broadcast_to(np.zeros((), dtype), shape).transpose(mixed.order)
    pieces = cut_pieces(shape, np.dtype(dtype).itemsize, mixed, split(shape, mixed, 1)[0])
    back = np.argsort(mixed.order)
    return [tuple(int(outline[piece.index].shape[axis]) for axis in back) for piece in pieces]


@given(
    st.lists(st.integers(1, 300), min_size=2, max_size=4),
    st.sampled_from(list(NORMS)),
    st.randoms(use_true_random=False),
    st.integers(1, 3),
)
def test_pieces_hold_each_fibre_of_a_block_once(shape: list[int], inner: str, chance: Random, count: int) -> None:
    axes = list(range(len(shape)))
    chance.shuffle(axes)
    norm = MixedNorm.parse(f"l1,{inner}", f"{axes[0]},{'.'.join(map(str, axes[1:]))}", ndim=len(shape))
    for block in split(tuple(shape), norm, count):
        held = np.zeros([shape[axis] for axis in norm.kept_axes], np.int64)
        for piece in cut_pieces(tuple(shape), 8, norm, block):
            held[piece.fibres] += 1
        assert (held[block.index(norm.kept_axes)] == 1).all()
        assert held.sum() == held[block.index(norm.kept_axes)].size


@pytest.mark.parametrize(
    ("shape", "axes", "norm", "piece"),
    [
        ((16384, 16384), "0,1", "l1,linf", (1024, 16384)),  # rows: 64 MiB
        ((16384, 16384), "1,0", "l1,linf", (16384, 4096)),  # columns: as wide as runs are to be
        ((1 << 18, 1024), "1,0", "l1,l2", (1 << 18, 256)),  # unless that made them more than four times as large
        ((16384, 16384), "1,0", "l1,l1", (16384, 256)),  # thresholds take long, and gain nothing by runs
        ((4096, 64, 16, 64), "1,0.2.3", "l1,l2", (4096, 4, 16, 64)),  # what lies behind an axis makes its runs
        ((64, 4096, 1024), "1,0.2", "l1,linf", (64, 256, 1024)),  # runs that are long enough are not widened
    ],
    ids=str,
)
def test_pieces_are_of_bounded_size_and_their_runs_long(
    shape: tuple[int, ...], axes: str, norm: str, piece: tuple[int, ...]
) -> None:
    found = lengths(shape, axes, norm)
    assert set(found) == {piece}
    assert len(found) * prod(piece) == prod(shape)
    assert 4 * prod(piece) <= 256 * MIB


def test_a_block_along_another_axis_is_cut_where_it_is() -> None:
    norm = MixedNorm.parse("l1,linf", "1,0", ndim=2)
    (piece,) = cut_pieces((8, 6), 4, norm, Block(1, 2, 5))
    assert piece.index[:2] == (slice(2, 5), slice(0, 8))
    assert piece.fibres[:1] == (slice(2, 5),)
