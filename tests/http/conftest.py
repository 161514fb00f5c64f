"""A projector in this process, for applications in this process."""

from collections.abc import Iterator

import pytest

from normtree.engine.projector import Projector
from normtree.settings import Settings

WORKERS = 2


@pytest.fixture(scope="session")
def projector() -> Iterator[Projector]:
    """A projector in this process, without Ray."""
    settings = Settings(inline_only=True, workers=WORKERS, arena_bytes=2**26)
    with Projector.start(settings) as found:
        yield found
