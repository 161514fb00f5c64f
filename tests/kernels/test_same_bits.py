"""The same tensor gives the same bytes, however it lies in memory, is cut in blocks, or is shared out to threads."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import normtree_kernels as nk
from normtree_kernels.compiled.lanes import CHUNK, GROUPS, LANES
from normtree_kernels.norms.mixed_norm import NORMS
from normtree_kernels.sweeps import sweep
from normtree_kernels.sweeps.fibres import PANEL_FIBRES, lay_out
from normtree_kernels.tree.blocks import split

LENGTHS = [1, 2, 63, 64, 65, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 1, 5000]
TEXTS = ["l1,l1", "l1,l2", "l1,linf", "l2,l1", "l2,l2", "linf,l2"]

Bits = Callable[[NDArray[Any]], object]


def random(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    return np.random.default_rng(sum(shape)).standard_t(3, shape).astype(dtype)


def as_columns(y: NDArray[Any]) -> NDArray[Any]:
    """Lie the rows of y side by side in memory."""
    return y.T.copy().T


def packed(y: NDArray[Any]) -> NDArray[Any]:
    """Lie y so that no stride walks its fibres forwards."""
    return y[:, ::-1].copy()[:, ::-1]


def summed_in_lanes(terms: NDArray[np.float64]) -> float:
    """Add a vector in the order that lanes.py fixes, by its words."""
    chunks = np.zeros((-(-terms.size // CHUNK), CHUNK))
    chunks.reshape(-1)[: terms.size] = terms
    sums: NDArray[np.float64] = chunks.reshape(-1, CHUNK // LANES, LANES)
    for width in (LANES, GROUPS, 1):
        total = np.zeros((len(sums), width))
        for part in np.moveaxis(sums.reshape(len(sums), -1, width), 1, 0):
            total += part
        sums = total
    return float(sums[0, 0]) if len(sums) == 1 else summed_in_lanes(sums[:, 0])


# --- the shape of a sum -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [*LENGTHS, CHUNK**2, CHUNK**2 + 1])
def test_sums_have_the_documented_shape(dtype: Any, length: int) -> None:
    y = random((length,), dtype)
    assert nk.norm(y, "l1") == summed_in_lanes(np.abs(y.astype(np.float64)))


@pytest.mark.parametrize("length", LENGTHS)
def test_zeros_that_fill_a_chunk_change_no_bit(name: str, dtype: Any, length: int) -> None:
    y = random((length,), dtype)
    assert nk.norm(np.pad(y, (0, -length % CHUNK)), name) == nk.norm(y, name)


# --- memory -----------------------------------------------------------------------------------------------------


def test_the_layouts_here_are_swept_by_different_kernels() -> None:
    y = random((7, 65), np.float64)
    kinds = [lay_out(1, lie(y)).kind for lie in (np.copy, as_columns, packed)]
    assert kinds == ["rows", "columns", "packed"]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("text", TEXTS)
def test_rows_columns_and_packed_fibres_give_the_same_bits(bits: Bits, dtype: Any, text: str, length: int) -> None:
    y = random((7, length), dtype)
    for share in (0.01, 0.6):
        radius = nk.norm(y, text) * share
        wanted = bits(nk.project(y, text, radius))
        for other in (as_columns(y), packed(y)):
            assert nk.norm(other, text) == nk.norm(y, text)
            assert bits(nk.project(other, text, radius)) == wanted
            out = np.empty((7, length), dtype)  # of another layout than y
            assert bits(nk.project(other, text, radius, out=out)) == wanted


def test_fibres_of_three_levels_of_chunks_give_the_same_bits(bits: Bits, name: str) -> None:
    y = random((2, CHUNK**2 + 1), np.float32)
    radius = nk.norm(y, f"l1,{name}") / 4
    rows, columns = (nk.project(lain, f"l1,{name}", radius) for lain in (y, as_columns(y)))
    assert bits(rows) == bits(columns)


@pytest.mark.parametrize("text", ["l1", "l2", "l1,linf", "l1,l2", "l2,l1", "l1,l2,linf", "linf,l1,l2"])
@pytest.mark.parametrize("axes", ["first", "last"])
def test_every_layout_gives_the_same_bits(layout: Any, bits: Bits, dtype: Any, text: str, axes: str) -> None:
    y = random((5, 6, 70), dtype)
    order = [0, 1, 2] if axes == "first" else [2, 1, 0]
    named = {1: [order], 2: [order[:1], order[1:]], 3: [[axis] for axis in order]}[text.count(",") + 1]
    radius = nk.norm(y, text, axes=named) * 0.4
    moved = layout(y)
    assert nk.norm(moved, text, axes=named) == nk.norm(y, text, axes=named)
    assert bits(nk.project(moved, text, radius, axes=named)) == bits(nk.project(y, text, radius, axes=named))


def test_a_broadcast_tensor_gives_the_bits_of_its_copy(bits: Bits, name: str, dtype: Any) -> None:
    for shape in ((1, 70), (9, 1), (1, 1)):
        y = np.broadcast_to(random(shape, dtype), (9, 70))
        assert bits(nk.project(y, f"l1,{name}", 1.0)) == bits(nk.project(y.copy(), f"l1,{name}", 1.0))


def test_overlapping_windows_give_the_bits_of_their_copy(bits: Bits, name: str, dtype: Any) -> None:
    y = np.lib.stride_tricks.sliding_window_view(random((50,), dtype), 7)
    for axes in ("0,1", "1,0"):
        wanted = nk.project(y.copy(), f"l1,{name}", 1.0, axes=axes)
        assert bits(nk.project(y, f"l1,{name}", 1.0, axes=axes)) == bits(wanted)


def test_more_fibres_than_a_panel_holds(bits: Bits, name: str) -> None:
    y = random((PANEL_FIBRES + 3, 3), np.float32)
    wanted = bits(nk.project(y, f"l1,{name}", 1e3))
    assert bits(nk.project(as_columns(y), f"l1,{name}", 1e3)) == wanted
    assert bits(nk.project(packed(y), f"l1,{name}", 1e3)) == wanted


@pytest.mark.parametrize("text", [*TEXTS, "l1", "l1,l2,linf"])
@pytest.mark.parametrize("axes", ["first", "last"])
def test_a_tensor_projected_in_place_gets_the_bits_of_its_projection(
    layout: Any, bits: Bits, dtype: Any, text: str, axes: str
) -> None:
    y = layout(random((5, 6, 70), dtype))
    order = [0, 1, 2] if axes == "first" else [2, 1, 0]
    named = {1: [order], 2: [order[:1], order[1:]], 3: [[axis] for axis in order]}[text.count(",") + 1]
    if not y.flags.writeable:
        with pytest.raises(ValueError, match=r"^out: wanted a writable array, got a read-only one$"):
            nk.project(y, text, 1.0, axes=named, out=y)
        return
    radius = nk.norm(y, text, axes=named) * 0.4
    wanted = bits(nk.project(y, text, radius, axes=named))
    assert nk.project(y, text, radius, axes=named, out=y, threads=2) is y
    assert bits(y) == wanted


@pytest.mark.parametrize("text", ["l1,l1", "l1,l2", "l1,linf"])
@pytest.mark.parametrize("axes", ["0,1", "1,0"])
@pytest.mark.parametrize("first", [0, 3])
def test_results_past_the_caches_have_the_bits_of_small_ones(bits: Bits, text: str, axes: str, first: int) -> None:
    """Large results are written by lines; some fibres vanish, some stay, rows are lines apart or are not."""
    for width in (8192, 8195):
        y = random((260, width + first), np.float32)[:, first:]
        y[:3], y[:, -3:] = y[:3] / 100, y[:, -3:] / 100
        kept, inner = y.transpose([int(axis) for axis in axes.split(",")]), text.split(",")[1]
        v = sweep.up(NORMS[inner], kept, 1)
        u = v * np.resize([0.0, 0.5, 1.0, 0.9], v.shape)
        large, small = np.empty_like(y), np.empty_like(y)
        sweep.down(NORMS[inner], kept, 1, v, u, large.transpose([int(axis) for axis in axes.split(",")]))
        for i in range(0, len(kept), 61):
            some = slice(i, i + 61)
            into = small.transpose([int(axis) for axis in axes.split(",")])[some]
            copied = np.empty_like(kept[some])
            sweep.down(NORMS[inner], kept[some], 1, v[some], u[some], copied)
            into[...] = copied
        assert large.nbytes >= sweep.STREAM_BYTES
        assert bits(large) == bits(small)
        sweep.down(NORMS[inner], kept, 1, v, u, kept)  # in place
        assert bits(y) == bits(large)


# --- threads and blocks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("text", [*TEXTS, "l1", "l1,l2,linf", "l2,linf,l1"])
def test_any_number_of_threads_gives_the_same_bits(bits: Bits, dtype: Any, text: str, threads: int) -> None:
    y = random((4, 7, 130), dtype)
    radius = nk.norm(y, text) * 0.3
    wanted = bits(nk.project(y, text, radius))
    for lie in (np.copy, np.asfortranarray):
        assert bits(nk.project(lie(y), text, radius, threads=threads)) == wanted


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 100])
@pytest.mark.parametrize("axes", ["0,1.2", "1,0.2", "2,0.1", "2.0,1", "0.1.2,", ",0.1.2"])
def test_blocks_swept_up_one_by_one_are_the_whole(name: str, dtype: Any, axes: str, count: int) -> None:
    y = random((4, 7, 130), dtype)
    norm = nk.MixedNorm.parse(f"l1,{name}", axes, ndim=3)
    kept, ordered = len(norm.kept_axes), y.transpose(norm.order)
    whole, parts = sweep.up(NORMS[name], ordered, kept), np.full(ordered.shape[:kept], np.nan)
    blocks = split(y.shape, norm, count)
    assert 1 <= len(blocks) <= count
    for block in blocks:
        parts[block.index(norm.kept_axes)] = sweep.up(NORMS[name], ordered[block.index(norm.order)], kept)
    assert parts.tobytes() == whole.tobytes()
