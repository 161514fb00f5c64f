"""Ranks found in parts are those of a sort, and sums above them those of `math.fsum`."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_dtypes import bfloat16
from numpy.typing import NDArray

from normtree_kernels.dtypes import ACCEPTED
from normtree_kernels.parts import ranks

Array = NDArray[Any]


def elements(dtype: Any, size: int, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    y = rng.standard_t(3, size) * 10.0 ** rng.integers(-4, 4)
    y[rng.random(size) < 0.1] = 0.0
    y[rng.random(size) < 0.1] = y[0]  # ties
    return y.astype(bfloat16 if dtype == "bfloat16" else dtype)


@given(
    size=st.integers(1, 300),
    share=st.floats(0, 1, exclude_max=True),
    cuts=st.integers(1, 4),
    dtype=st.sampled_from(ACCEPTED),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_rank_and_the_sum_above_it(size: int, share: float, cuts: int, dtype: str, seed: int) -> None:
    y = elements(dtype, size, seed)
    pieces, rank = np.array_split(y, cuts), int(share * size)
    search = ranks.search(rank, y.size, y.dtype)
    question = next(search)
    while True:
        try:
            question = search.send(np.sum([ranks.digits(piece, *question) for piece in pieces], axis=0))
        except StopIteration as found:
            tau = found.value
            break
    sizes = np.abs(y.astype(np.float64))
    assert tau == np.sort(sizes)[rank]
    sums, counts = zip(*(ranks.above(piece, tau) for piece in pieces), strict=True)
    over = sizes[sizes > tau] - tau
    assert sum(counts) == over.size
    assert ranks.total(np.sum(sums, axis=0)) == math.fsum(over)


@pytest.mark.parametrize("values", [[5e-324, 1e300, 1.0, 2.0**-1074 * 3], [5e307, 2e307, 1e-320], [2.0**-1030] * 7])
def test_sums_of_far_apart_numbers_are_exact(values: list[float]) -> None:
    sums, count = ranks.above(np.array([*values, -values[0]]), 0.0)
    assert count == len(values) + 1
    assert ranks.total(sums) == math.fsum([*values, values[0]])
