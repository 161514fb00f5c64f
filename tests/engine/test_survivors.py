"""Survivors alone: the bits of the whole projection without its zero groups, and none of the zeros written."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

import normtree_kernels as nk
from normtree.compact import Compact, compress, compress_in_place, expand, from_beginning
from normtree.engine import survivors as module
from normtree.engine.memory.tensor import Tensor
from normtree.engine.projector import Projector
from normtree.engine.survivors import Survivors

CASES = [
    ((60, 90), "l1,linf", None),
    ((60, 90), "l1,l2", "1,0"),
    ((60, 90), "l1,l1", "1,0"),
    ((9, 8, 7, 6), "l1,linf", "0.2,1.3"),
    ((9, 8, 7, 6), "l1,l1,l2", "3,0.1,2"),
    ((9, 8, 7, 6), "l1,l2,l1,linf", "1,2,0,3"),
    ((60,), "l1,linf", "0,"),
    ((0, 5), "l1,linf", None),
    ((5, 0), "l1,linf", None),
]
UNWRITTEN = 7


def noise(shape: tuple[int, ...], dtype: Any = np.float32) -> NDArray[Any]:
    return np.asarray(np.random.default_rng(5).standard_t(3, shape)).astype(dtype)


def survive(projector: Projector, y: NDArray[Any], **options: Any) -> tuple[Compact | None, NDArray[Any]]:
    """Ask for the survivors only; return them, and what the target's memory holds then."""
    plan = projector.plan(y.shape, y.dtype.name, **options)
    with projector.arena.lease(plan.nbytes) as inside, projector.arena.lease(plan.nbytes) as outside:
        source, target = (Tensor(segment.name, plan.shape, plan.dtype) for segment in (inside, outside))
        source.array(writable=True)[...] = y
        target.array(writable=True)[...] = UNWRITTEN
        told = Survivors()
        projector.project(source, target, plan, survivors=told)
        memory = target.array().reshape(-1).copy()
    if told.index is None:
        return None, memory
    return from_beginning(memory, told.index, y.shape, plan.norm.levels[0].axes), memory


@pytest.mark.parametrize("engine", ["inline", "ray"])
@pytest.mark.parametrize(("shape", "norm", "axes"), CASES)
@pytest.mark.parametrize("share", [0.0, 0.1, 2.0])
def test_bits_of_the_whole_without_its_zeros(
    projector: Projector,
    monkeypatch: pytest.MonkeyPatch,
    engine: str,
    shape: tuple[int, ...],
    norm: str,
    axes: str | None,
    share: float,
) -> None:
    if engine == "inline":
        monkeypatch.setattr(module, "_PIECE_BYTES", 2**10)  # several pieces a leaf
    y = noise(shape)
    y[:2] = 0
    radius = share * nk.norm(y, norm, axes=axes)
    found, memory = survive(projector, y, norm=norm, axes=axes, radius=radius, engine=engine)
    assert found is not None
    whole = nk.project(y, norm, radius, axes=axes)
    wanted = compress(whole, found.axes)
    assert found.index.tolist() == wanted.index.tolist()
    assert found.values.shape == wanted.values.shape
    assert found.values.tobytes() == wanted.values.tobytes()
    assert expand(found.index, found.values, found.shape, found.axes).tobytes() == whole.tobytes()
    assert (memory[found.values.size :] == UNWRITTEN).all()


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_other_types_and_the_exact_projection(projector: Projector, dtype: Any, exact: bool) -> None:
    y = noise((60, 90), dtype)
    found, _ = survive(projector, y, norm="l1,linf", radius=9.0, exact=exact)
    assert found is not None
    wanted = compress(nk.project(y, "l1,linf", 9.0, exact=exact), (0,))
    assert found.index.tolist() == wanted.index.tolist()
    assert found.values.tobytes() == wanted.values.tobytes()


@pytest.mark.parametrize("norm", ["l1,linf", "l1,l2", "l1,l1"])
def test_radii_near_the_least_number_do_not_tell(projector: Projector, norm: str) -> None:
    """Then what is not zero can become zero by rounding, and all of the projection is there."""
    y = noise((60, 90), np.float16)
    for radius in (1e-7, 4e-6):
        found, memory = survive(projector, y, norm=norm, radius=radius)
        assert found is None
        assert memory.tobytes() == nk.project(y, norm, radius).tobytes()


def test_groups_that_are_elements_and_fibres_cut_into_parts(projector: Projector) -> None:
    for shape, norm in (((3_000,), "l1"), ((1, 9_000), "l1,linf")):
        y = noise(shape)
        found, memory = survive(projector, y, norm=norm, radius=9.0, engine="inline", workers=2)
        assert found is None
        assert memory.tobytes() == nk.project(y, norm, 9.0).tobytes()


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 2)])
def test_a_tensor_is_shortened_in_its_own_memory(axes: tuple[int, ...]) -> None:
    x = nk.project(noise((9, 8, 7)), "l1,linf", 3.0, axes=(axes, tuple(axis for axis in range(3) if axis not in axes)))
    wanted = compress(x, axes)
    assert 0 < len(wanted.index) < 9 * 7
    memory = x.reshape(-1)
    found = compress_in_place(x, axes)
    assert np.shares_memory(found.values, memory[:1])
    assert found.index.tolist() == wanted.index.tolist()
    assert found.values.tobytes() == wanted.values.tobytes()
