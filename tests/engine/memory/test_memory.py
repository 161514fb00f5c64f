"""Memory that is not there: each request ends in a typed error or the right answer, and the next one is right."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import normtree_kernels as nk
from normtree.engine.memory.tensor import Tensor
from normtree.engine.plan import Plan
from normtree.engine.projector import Projector
from normtree.errors import ArenaFull, OutOfMemory

RADIUS = 100.0


@pytest.fixture(scope="module")
def projector(fresh_projector: Projector) -> Projector:
    """Workers that have mapped no memory of others, which they could use again."""
    return fresh_projector


@pytest.fixture(scope="module")
def y() -> NDArray[np.float32]:
    return np.random.default_rng(3).standard_normal((3000, 1000), dtype=np.float32)


def make_plan(projector: Projector, y: NDArray[Any], engine: str = "ray") -> Plan:
    return projector.plan(y.shape, "<f4", norm="l1,l1", radius=RADIUS, engine=engine, workers=2)


def check_right(projector: Projector, y: NDArray[Any]) -> None:
    x, timing = projector.project_array(y, make_plan(projector, y))
    assert x.tobytes() == nk.project(y, "l1,l1", RADIUS).tobytes()
    assert timing.retries == 0
    assert projector.arena.leased_bytes == projector.slates.leased_bytes == 0


@contextmanager
def no_more_memory(pids: list[int]) -> Iterator[None]:
    """Let processes map no more than they have mapped."""
    for pid in pids:
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
        mapped_kib = next(int(line.split()[1]) for line in status if line.startswith("VmSize:"))
        resource.prlimit(pid, resource.RLIMIT_AS, (mapped_kib << 10, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        for pid in pids:
            resource.prlimit(pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def test_a_leaf_that_may_have_no_more_memory_says_so(projector: Projector, y: NDArray[Any]) -> None:
    assert projector.ray
    pids = projector.ray.worker_pids()
    with no_more_memory(pids), pytest.raises(OutOfMemory, match="a leaf found no memory for its work"):
        projector.project_array(y, make_plan(projector, y))
    assert projector.arena.leased_bytes == projector.slates.leased_bytes == 0
    check_right(projector, y)
    assert set(projector.ray.worker_pids()) == set(pids), "no worker had to be ended for it"


@pytest.mark.parametrize("engine", ["inline", "ray"])
def test_a_run_waits_for_its_slate_until_its_deadline(projector: Projector, y: NDArray[Any], engine: str) -> None:
    plan = make_plan(projector, y, engine)
    with projector.arena.lease(y.nbytes) as source, projector.arena.lease(y.nbytes) as target:
        tensors = Tensor(source.name, y.shape, "<f4"), Tensor(target.name, y.shape, "<f4")
        size = projector.slates.capacity_bytes // 4
        held = [projector.slates.lease(size) for _ in range(4)]
        with pytest.raises(ArenaFull, match="are in use"):
            projector.project(*tensors, plan, deadline_s=0.2)
        for segment in held:
            segment.release()
    check_right(projector, y)


def test_a_full_arena_refuses_a_tensor_and_takes_it_later(projector: Projector, y: NDArray[Any]) -> None:
    held = [projector.arena.lease(projector.arena.capacity_bytes // 4) for _ in range(4)]
    with pytest.raises(ArenaFull, match="are in use") as caught:
        projector.project_array(y, make_plan(projector, y))
    assert caught.value.retry_after_s
    for segment in held:
        segment.release()
    check_right(projector, y)
