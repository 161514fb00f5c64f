"""What all tests share: the profiles of the property tests, and the real service in a process of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
import pytest
from hypothesis import settings

# On top of Hypothesis' own default, which is another one on CI. The first call of a kernel compiles it,
# so no example has a deadline; pytest's timeout guards the test.
settings.register_profile("house", settings.default, deadline=None)
settings.register_profile("fuzz", settings.default, deadline=None, max_examples=5_000)
settings.load_profile("house")

SERVE = "from normtree.http.serve import serve; from normtree.settings import Settings; serve(Settings())"
START_S = 240
STOP_S = 30
WORKERS = 2


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def wait_until_ready(base: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx.get(f"{base}/v2/health/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    pytest.fail(f"the service did not start:\n{log.read_text()}")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Profiles of a machine that is busy with tests are not kept for later."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


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
    with log.open("wb") as sink:
        process = subprocess.Popen([sys.executable, "-c", SERVE], env=environment, stdout=sink, stderr=sink)
    base = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(base, process, log)
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
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of the real service on an embedded Ray."""
    log = tmp_path_factory.mktemp("service") / "log.txt"
    with serving(log, workers=WORKERS, arena_bytes=2**29, body_limit_bytes=2**28) as (base, _):
        yield base


@pytest.fixture(scope="session")
def client(service: str) -> Iterator[httpx.Client]:
    """A client of the real service."""
    with httpx.Client(base_url=service, timeout=60) as found:
        yield found
