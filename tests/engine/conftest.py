"""One projector on a real embedded Ray for the tests of this folder."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from normtree.engine.profile import leaf_bench
from normtree.engine.projector import Projector
from normtree.settings import Settings


def start() -> Projector:
    return Projector.start(Settings(workers=2, arena_bytes=2**30, ray_restart_s=0))


@pytest.fixture(scope="module")
def projector(folder: Any) -> Projector:
    found: Projector = folder.keep(start)
    return found


@pytest.fixture(scope="module")
def fresh_projector(folder: Any) -> Projector:
    """One whose workers have done nothing yet; the folder's from then on."""
    folder.end()
    found: Projector = folder.keep(start)
    return found


@contextmanager
def measure_little() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leaf_bench, "SIZES", dict.fromkeys(leaf_bench.SIZES, (1 << 12, 1 << 18, 1 << 22)))
        yield


@pytest.fixture(scope="session")
def measuring_little() -> Callable[[], AbstractContextManager[None]]:
    """Measure machine profiles on small tensors only, where nobody asks for their figures."""
    return measure_little
