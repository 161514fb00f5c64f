"""The bits of thousands of projections, as a table that is kept: a change that moves one has to say why.

`python tests/kernels/compiled/test_bits.py` writes the table anew.
"""

import hashlib
import json
import math
import warnings
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_dtypes import bfloat16
from numpy.typing import NDArray

import normtree_kernels as nk

TABLE = Path(__file__).with_name("bits.json")
DTYPES: dict[str, Any] = {"float64": np.float64, "float32": np.float32, "float16": np.float16, "bfloat16": bfloat16}
NAMES = ("l1", "l2", "linf")
DEEP = ("l1,l1,l1", "l1,linf,linf", "l1,l2,linf", "l1,linf,l1", "l2,l1,linf", "linf,l1,l2", "l1,l1,linf,l2")
EXACT = ("l1", "l2", "linf", "l1,linf", "l1,linf,linf", "l1,l2", "linf,l1,l2")
SHAPES: dict[int, list[tuple[tuple[int, ...], str | None]]] = {
    1: [((1,), None), ((300,), None), ((5000,), None), ((40, 50), None)],
    2: [
        ((7, 5), None),
        ((200, 9), None),
        ((9, 200), "1,0"),
        ((33, 64), None),
        ((33, 64), "1,0"),
        ((16, 1500), None),
        ((1500, 16), "1,0"),
        ((3, 5000), None),
        ((6, 5, 70), "1,0.2"),
        ((6, 70, 5), "1.2,0"),
    ],
    3: [((4, 6, 33), None), ((33, 6, 4), "2,1,0"), ((5, 3, 4, 20), "1,0.2,3")],
    4: [((3, 4, 5, 20), None), ((20, 5, 4, 3), "3,1,2,0")],
}
GOALS = {"share": 0.3, "tiny": 0.001, "inside": 1.5, "sparsity": 0.5, "groups": 3}  # the first three of the norm


def tensor(shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """Make a tensor out of integers alone, with heavy tails and zeros: the same on every machine."""
    words = np.random.PCG64(sum(shape)).random_raw(math.prod(shape))
    fractions = (words >> np.uint64(40)).astype(np.float64) / 2**23 - 1.0
    scales = np.ldexp(1.0, ((words & np.uint64(7)).astype(np.int32) - 4))
    return (fractions * scales * (words & np.uint64(56) != 0)).reshape(shape).astype(DTYPES[dtype])


def cases() -> Iterator[tuple[str, str, tuple[int, ...], str | None, str, bool]]:
    """Yield norm, dtype, shape, axes, goal and whether it is exact."""
    norms = [*NAMES, *map(",".join, product(NAMES, NAMES)), *DEEP]
    for exact, texts in ((False, norms), (True, EXACT)):
        for norm, dtype, goal in product(texts, DTYPES, GOALS):
            if goal in ("sparsity", "groups") and (exact or not norm.startswith("l1")):
                continue
            for shape, axes in SHAPES[1 + norm.count(",")]:
                if goal != "groups" or shape != (1,):
                    yield norm, dtype, shape, axes, goal, exact


def layouts(y: NDArray[Any]) -> list[NDArray[Any]]:
    """Lie a tensor as it is, in the other order, and backwards: one of them by turns a case."""
    backwards = (slice(None, None, -1),) * y.ndim
    return [y, np.asfortranarray(y), y[backwards].copy()[backwards]]


def digests() -> dict[str, str]:
    """Project every case, and return a few letters of the result's digest by the case's name."""
    found = {}
    for number, (norm, dtype, shape, axes, goal, exact) in enumerate(cases()):
        y = tensor(shape, dtype)
        given = {goal: GOALS[goal]} if goal in ("sparsity", "groups") else {}
        radius = None if given else GOALS[goal] * nk.norm(y, norm, axes=axes)
        y = layouts(y)[number % 3]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", nk.NothingLeftWarning)  # of one that is tied
            x = nk.project(y, norm, radius, axes=axes, exact=exact, threads=1 + number % 2, **given)  # type: ignore[arg-type]
        kept = hashlib.sha256(x.tobytes("C")).hexdigest()[:12]
        found[f"{norm} {dtype} {'x'.join(map(str, shape))} {axes or '-'} {goal}{' exact' * exact}"] = kept
    return found


def test_no_bit_has_moved() -> None:
    kept: dict[str, str] = json.loads(TABLE.read_text("utf-8"))
    found = digests()
    assert len(found) >= 2000
    assert found.keys() == kept.keys()
    moved = [case for case in found if found[case] != kept[case]]
    assert not moved, f"{len(moved)} of {len(found)} moved, first {moved[:5]}"


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_tensors_are_worth_projecting(dtype: str) -> None:
    y = tensor((16, 1500), dtype).astype(np.float64)
    assert 0 < (y == 0).mean() < 0.5
    assert (y < 0).any()
    assert (y > 0).any()


if __name__ == "__main__":
    TABLE.write_text(json.dumps(digests(), indent=0) + "\n", "utf-8")
