"""What all tests share: the profiles of the property tests, and the real service in a process of its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import httpx
import pytest
from hypothesis import settings

from normtree.demo import ending_with_us, free_port, wait_until_ready

# On top of Hypothesis' own default, which is another one on CI. The first call of a kernel compiles it,
# so no example has a deadline; pytest's timeout guards the test.
settings.register_profile("house", settings.default, deadline=None)
settings.register_profile("fuzz", settings.default, deadline=None, max_examples=5_000)
settings.load_profile("house")

SERVE = "from normtree.http.serve import serve; from normtree.settings import Settings; serve(Settings())"
KERNELS = "tests/kernels/"
JOBS = ("tests/jobs/", "tests/loadtests/", "tests/nodes/")
STOP_S = 120
WORKERS = 2
T = TypeVar("T")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Profiles of a machine that is busy with tests are not kept for later; processes of one run share them."""
    base = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str((base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "cache"))
        yield


@pytest.fixture(scope="session")
def ray_folder() -> Iterator[str]:
    """A folder for clusters. Sockets lie in it, whose paths may have 107 characters: pytest's own are too deep."""
    with TemporaryDirectory(prefix="nt-", ignore_cleanup_errors=True) as folder:
        yield folder


@pytest.fixture(scope="module", autouse=True)
def apart(request: pytest.FixtureRequest, ray_folder: str) -> Iterator[None]:
    """Keep the clusters of jobs where those of the other process do not look for the one that `auto` means."""
    with pytest.MonkeyPatch.context() as patch:
        if request.node.nodeid.startswith(JOBS):
            patch.setenv("RAY_TMPDIR", ray_folder)
        yield


class Folder:
    """What the modules of a folder share. It ends with the folder's last test, for the next folder starts its own."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self._kept: dict[object, Any] = {}

    def keep(self, start: Callable[[], AbstractContextManager[T]]) -> T:
        """Enter what is started, the first time, and return the same as then afterwards."""
        if start not in self._kept:
            self._kept[start] = self._open.enter_context(start())
        found: T = self._kept[start]
        return found

    def end(self) -> None:
        """End all of it."""
        self._kept.clear()
        self._open.close()


FOLDER = pytest.StashKey[Folder]()


@pytest.fixture(scope="session")
def folder(request: pytest.FixtureRequest) -> Iterator[Folder]:
    """The folder of the test that runs: pytest has scopes for modules and for everything, and none between."""
    found = request.session.stash[FOLDER] = Folder()
    yield found
    found.end()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """End what a folder's modules share after the last of them."""
    if FOLDER in item.session.stash and (nextitem is None or nextitem.path.parent != item.path.parent):
        item.session.stash[FOLDER].end()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Let one process have jobs and clusters, another what else starts Ray or a service, and both the kernels' files.

    Within a group the tests keep their order: some wait long for a module's cluster, which then serves them all.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Beside(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return file if file.startswith(KERNELS) else "jobs" if file.startswith(JOBS) else "service"

    return Beside(config, log)


@contextmanager
def serving(log: Path, **settings: object) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run the service in a process of its own, and end it by a signal as an operator would."""
    port = free_port()
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "NORMTREE_PORT": str(port),
        **{f"NORMTREE_{name.upper()}": str(value) for name, value in settings.items()},
    }
    command = ending_with_us([sys.executable, "-c", SERVE], signal.SIGKILL)  # it may be what hangs
    with log.open("wb") as sink:
        process = subprocess.Popen(command, env=environment, stdout=sink, stderr=sink)
    base = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(base_url=base, timeout=60) as client:
            try:
                wait_until_ready(client, process)
            except ValueError as error:
                pytest.fail(f"{error}\n{log.read_text()}")
        yield base, process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            status = process.wait(STOP_S)
        finally:
            process.kill()
            process.wait()
    assert status == 0, log.read_text()
    assert not list(Path("/dev/shm").glob(f"normtree-{process.pid}-*"))


Serving = Callable[..., AbstractContextManager[tuple[str, subprocess.Popen[bytes]]]]


@pytest.fixture(scope="session")
def serve() -> Serving:
    """Return what runs a service with settings of the test's own."""
    return serving


@pytest.fixture(scope="session")
def jobs_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder that the jobs of the real service may use."""
    return tmp_path_factory.mktemp("jobs-root")


@pytest.fixture(scope="session")
def started(tmp_path_factory: pytest.TempPathFactory, jobs_root: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Base URL and process of the real service on an embedded Ray."""
    log = tmp_path_factory.mktemp("service") / "log.txt"
    limits = {"arena_bytes": 2**29, "body_limit_bytes": 2**28}
    with serving(log, workers=WORKERS, shared_memory=True, jobs_roots=jobs_root, **limits) as found:
        yield found


@pytest.fixture(scope="session")
def service(started: tuple[str, subprocess.Popen[bytes]]) -> str:
    """Base URL of the real service on an embedded Ray."""
    return started[0]


@pytest.fixture(scope="session")
def client(service: str) -> Iterator[httpx.Client]:
    """A client of the real service."""
    with httpx.Client(base_url=service, timeout=60) as found:
        yield found
