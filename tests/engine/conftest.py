"""One projector on a real embedded Ray for the tests of this folder, that ends with them: others start their own."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest

from normtree.engine import bench
from normtree.engine.projector import Projector
from normtree.settings import Settings

FOLDER = Path(__file__).parent
Measuring = Callable[[], AbstractContextManager[None]]


class Kept:
    """The projector, once it is started, until it is ended."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self._found: Projector | None = None

    def get(self) -> Projector:
        if self._found is None:
            self._found = self._open.enter_context(Projector.start(Settings(workers=2, arena_bytes=2**30)))
        return self._found

    def end(self) -> None:
        self._found = None
        self._open.close()


KEPT = pytest.StashKey[Kept]()


@pytest.fixture(scope="session")
def kept(request: pytest.FixtureRequest) -> Iterator[Kept]:
    found = request.session.stash[KEPT] = Kept()
    yield found
    found.end()


@pytest.fixture(scope="module")
def projector(kept: Kept) -> Projector:
    return kept.get()


@pytest.fixture(scope="module")
def fresh_projector(kept: Kept) -> Projector:
    """One whose workers have done nothing yet."""
    kept.end()
    return kept.get()


@contextmanager
def measure_little() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "SIZES", dict.fromkeys(bench.SIZES, (1 << 12, 1 << 18, 1 << 22)))
        yield


@pytest.fixture(scope="session")
def measuring_little() -> Measuring:
    """Measure machine profiles on small tensors only, where nobody asks for their figures."""
    return measure_little


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """End it after the last test of the folder; pytest has scopes for modules and for everything, not for folders."""
    if KEPT in item.session.stash and (nextitem is None or FOLDER not in nextitem.path.parents):
        item.session.stash[KEPT].end()
