"""Fibres cut into parts: the library's bits, on both engines and on however many workers."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import normtree_kernels as nk
from normtree.engine.memory.tensor import Tensor
from normtree.engine.projector import Projector
from normtree.errors import InvalidTensor
from normtree.settings import Settings
from normtree_kernels.tree import pieces

CASES = [
    ((50_003,), "l1", None),
    ((50_003,), "l2", None),
    ((50_003,), "linf", None),
    ((1, 9_000), "l1,linf", None),
    ((9_000, 1), "l1,l1", "1,0"),
    ((9, 1, 1_000), "l2,l1", "1,0.2"),
    ((30, 300), "l1", "0.1"),
    ((), "l1", None),
]


def noise(shape: tuple[int, ...], dtype: str = "float32") -> NDArray[Any]:
    return np.asarray(np.random.default_rng(3).standard_t(3, shape)).astype(dtype)


def project(projector: Projector, y: NDArray[Any], norm: str, axes: str | None, radius: float, **options: Any) -> Any:
    plan = projector.plan(y.shape, y.dtype.name, norm=norm, axes=axes, radius=radius, **options)
    return plan, *projector.project_array(y, plan)


@pytest.fixture(scope="module")
def seven(measuring_little: Any) -> Iterator[Projector]:
    with measuring_little():
        started = Projector.start(Settings(workers=7, arena_bytes=2**28, inline_only=True))
    with started:
        yield started


@pytest.fixture(params=[("inline", 2), ("ray", 2), ("inline", 3), ("inline", 7)], ids=str)
def engine(request: pytest.FixtureRequest, projector: Projector, seven: Projector) -> tuple[Projector, str, int]:
    name, workers = request.param
    return projector if name == "ray" else seven, name, workers


@pytest.mark.parametrize(("shape", "norm", "axes"), CASES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("share", [0.0, 1e-17, 0.2, 1.5])
def test_the_bits_are_the_library_s(
    engine: tuple[Projector, str, int], shape: tuple[int, ...], norm: str, axes: str | None, dtype: str, share: float
) -> None:
    projector, name, workers = engine
    y = noise(shape, dtype)
    radius = share * nk.norm(y, norm, axes=axes)
    plan, x, timing = project(projector, y, norm, axes, radius, engine=name, workers=workers)
    assert x.tobytes() == nk.project(y, norm, radius, axes=axes).tobytes()
    assert timing.blocks == len(plan.blocks) == (min(workers, y.size // 1024) if shape else 1)


def test_pieces_of_a_part_change_no_bit(seven: Projector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "_CHUNKED_ELEMENTS", 2048)
    y = noise((50_003,))
    _, x, timing = project(seven, y, "l1", None, 100.0, engine="inline", workers=3)
    assert x.tobytes() == nk.project(y, "l1", 100.0).tobytes()
    assert timing.levels[0].tasks > 2 * 3  # rounds between up and down


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_a_fortran_tensor_goes_to_a_c_tensor(seven: Projector, norm: str) -> None:
    y = noise((60, 90))
    with seven.arena.lease(y.nbytes) as source, seven.arena.lease(y.nbytes) as target:
        source.buffer[:] = y.tobytes(order="F")
        plan = seven.plan(y.shape, "<f4", norm=norm, radius=20.0, engine="inline", workers=3)
        assert plan.in_parts
        out = Tensor(target.name, y.shape, "<f4")
        seven.project(Tensor(source.name, y.shape, "<f4", "F"), out, plan)
        assert out.array().tobytes() == nk.project(y, norm, 20.0).tobytes()


@pytest.mark.parametrize("goal", [{"sparsity": 0.9}, {"groups": 10}])
def test_a_goal_over_all_elements(seven: Projector, goal: dict[str, Any]) -> None:
    y = noise((20_000,))
    plan = seven.plan(y.shape, "float32", norm="l1", engine="inline", workers=7, **goal)
    assert seven.project_array(y, plan)[0].tobytes() == nk.project(y, "l1", **goal).tobytes()


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_a_bad_element_is_told_by_its_index(seven: Projector, norm: str) -> None:
    y = noise((20_000,))
    y[17_000] = np.nan
    with pytest.raises(InvalidTensor, match=r"element \[17000\] is nan"):
        project(seven, y, norm, None, 1.0, engine="inline", workers=7)


def test_an_exact_projection_of_cut_fibres(seven: Projector) -> None:
    y = noise((2, 9_000))
    plan, x, _ = project(seven, y, "l1,linf", None, 3.0, engine="inline", workers=7, exact=True)
    assert plan.in_parts
    assert x.tobytes() == nk.project(y, "l1,linf", 3.0, exact=True).tobytes()
