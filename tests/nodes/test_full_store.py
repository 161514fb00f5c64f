"""An object store that is full: the right answer or a typed error in time, and the right answer when there is room."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import ray

import normtree_kernels as nk
from normtree import on_ray
from normtree.engine.cluster.ray_environment import prepare_environment
from normtree.errors import DeadlineExceeded, OutOfMemory

pytestmark = [pytest.mark.nodes, pytest.mark.slow]

STORE_BYTES = 80 << 20
DEADLINE_S = 60.0

prepare_environment(embedded=True)


@pytest.fixture(scope="module")
def store() -> Iterator[None]:
    """One node whose store spills nothing to disk."""
    ray.init(
        address="local", num_cpus=2, object_store_memory=STORE_BYTES, include_dashboard=False,
        configure_logging=False, log_to_driver=False, _system_config={"automatic_object_spilling_enabled": False},
    )  # fmt: skip
    yield
    ray.shutdown()


def test_results_that_find_no_room(store: None) -> None:
    y = np.random.default_rng(3).standard_normal((2000, 2000), dtype=np.float32)
    expected = nk.project(y, "l1,linf", 100.0).tobytes()
    blocks = [ray.put(block) for block in np.split(y, 2)]

    def project() -> bytes:
        made: Any = ray.get(on_ray.project(blocks, "l1,linf", 100.0, deadline_s=DEADLINE_S))
        return np.concatenate(made).tobytes()

    filler = ray.put(np.zeros(STORE_BYTES - y.nbytes - (8 << 20), np.uint8))
    try:
        assert project() == expected
    except (OutOfMemory, DeadlineExceeded) as error:
        print(f"refused: {error.detail}")
    del filler
    assert project() == expected
