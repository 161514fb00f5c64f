"""One projector on a real embedded Ray for the tests of a module, that ends with them: others start their own."""

from collections.abc import Iterator

import pytest

from normtree.engine.projector import Projector
from normtree.settings import Settings


@pytest.fixture(scope="module")
def projector() -> Iterator[Projector]:
    with Projector.start(Settings(workers=2, arena_bytes=2**30)) as started:
        yield started
