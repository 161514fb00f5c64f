"""What all tests share: profiles of the property tests, the real service in a process of its own, ways to reach it."""

import gzip
import http.client
import os
import random
import signal
import subprocess
import sys
import threading
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
import pytest
from coverage import Coverage
from hypothesis import settings

from normtree.engine.kernels import warm_kernels
from normtree.processes.ending import ending_with_us
from normtree.processes.starting import free_port, wait_until_ready

# On top of Hypothesis' own default, which is another one on CI. The first call of a kernel compiles it,
# so no example has a deadline; pytest's timeout guards the test.
settings.register_profile("house", settings.default, deadline=None)
settings.register_profile("fuzz", settings.default, deadline=None, max_examples=5_000)
settings.load_profile("house")

SERVE = "from normtree.http.serve import serve; from normtree.settings import Settings; serve(Settings())"
TESTS = Path(__file__).parent
MEASURE = "COVERAGE_PROCESS_START"  # has a Python process that finds it measure which lines it runs
ALONE = f"import os; os.environ.pop({MEASURE!r}, None)"  # and not those that it starts: Ray's are many
KERNELS = "tests/kernels/"
JOBS = ("tests/homes/", "tests/jobs/", "tests/loadtests/", "tests/nodes/")
APART = ("engine", "house")  # folders that need nothing which others have started
STOP_S = 120
CHILD_S = 120
WORKERS = 2
T = TypeVar("T")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Profiles of a machine that is busy with tests are not kept for later; processes of one run share them."""
    base = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str((base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "cache"))
        yield


@pytest.fixture(scope="session", autouse=True)
def no_proxy() -> Iterator[None]:
    """Let every client reach this machine itself, on machines too that reach all else through a proxy."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("no_proxy", "NO_PROXY"):
            patch.setenv(name, "127.0.0.1,localhost")
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
    """What the modules of a folder and its rooms share. It ends with their last test: the next starts its own."""

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


def folder_of(item: pytest.Item) -> str:
    """Name the folder of a test, its rooms included."""
    return item.path.relative_to(TESTS).parts[0]


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """End what a folder's modules share after the last of them."""
    if FOLDER in item.session.stash and (nextitem is None or folder_of(nextitem) != folder_of(item)):
        item.session.stash[FOLDER].end()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Let one process have jobs and clusters, another the service, and both what is left: a whole folder, or a file.

    Within a group the tests keep their order: some wait long for a module's cluster, which then serves them all.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Beside(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            folder = file.split("/")[1]
            if file.startswith(KERNELS):
                return file
            return "jobs" if file.startswith(JOBS) else folder if folder in APART else "service"

    return Beside(config, log)


DECOYS = ("secrets.py", "statistics.py", "numba/__init__.py", "ray/__init__.py", "safetensors/__init__.py")


@pytest.fixture(scope="session")
def decoys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with files that have libraries' names, and end whatever takes them for these."""
    folder = tmp_path_factory.mktemp("decoys")
    for name in DECOYS:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("raise SystemExit(f'{__file__} is no library')\n")
    return folder


def measured() -> dict[str, str]:
    """What has a process measure which lines it runs, where this one does."""
    told = {MEASURE: str(TESTS.parent / "pyproject.toml"), "COVERAGE_FILE": str(TESTS.parent / ".coverage")}
    return told if Coverage.current() else {}


@contextmanager
def serving(
    log: Path,
    cwd: Path | None = None,
    within: tuple[str, ...] = (),
    importing: Sequence[str] = (),
    also: Mapping[str, str] | None = None,
    **settings: object,
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run the service in a process and a working folder of its own; end it by a signal as an operator would.

    ``within`` is what a command is put behind that becomes the service, such as `small_shared_memory`; modules that it
    is ``importing`` may add to its registries; ``also`` is in its environment.
    """
    port = free_port()
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "NORMTREE_PORT": str(port),
        **(also or {}),
        **{f"NORMTREE_{name.upper()}": str(value) for name, value in settings.items()},
    }
    code = "; ".join([ALONE, *(f"import {name}" for name in importing), SERVE])
    command = ending_with_us([*within, sys.executable, "-P", "-c", code], signal.SIGKILL)  # it may be what hangs
    if not importing:
        warm_kernels()  # a service compiles beside its first requests, which is no test's business but one
    with log.open("wb") as sink:
        process = subprocess.Popen(command, env=environment, cwd=cwd, stdout=sink, stderr=sink)
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


@pytest.fixture(scope="session")
def small_shared_memory() -> tuple[str, ...]:
    """What a command is put behind to find 64 MB of /dev/shm, as containers have them; it becomes the command."""
    script = 'mount -t tmpfs -o size=64m tmpfs /dev/shm && exec "$@"'
    for unshare in (("unshare", "--mount"), ("unshare", "--mount", "--map-root-user")):
        within = (*unshare, "sh", "-c", script, "sh")
        with suppress(FileNotFoundError):
            if subprocess.run([*within, "true"], capture_output=True, check=False).returncode == 0:
                return within
    pytest.skip("this system lets nobody mount a /dev/shm of his own: unshare --mount is not permitted")


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
def started(
    tmp_path_factory: pytest.TempPathFactory, jobs_root: Path, decoys: Path
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Base URL and process of the real service on an embedded Ray."""
    log = tmp_path_factory.mktemp("service") / "log.txt"
    with serving(
        log,
        decoys,
        also=measured(),
        workers=WORKERS,
        shared_memory=True,
        jobs_roots=jobs_root,
        arena_bytes=2**29,
        body_limit_bytes=2**28,
    ) as found:
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


CODED: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}
HOP = ("connection", "transfer-encoding")  # headers of one connection, and not of what passes over it


class Relay(ThreadingHTTPServer):
    """A reverse proxy that answers by chunks of no regular size, compressed or not, whatever the client accepts.

    Args:
        base: URL of the service.
        way: `rechunked`, or the coding of what it answers.
    """

    daemon_threads = True

    def __init__(self, base: str, way: str) -> None:
        super().__init__(("127.0.0.1", 0), Relayed)
        self.target, self.way = urlsplit(base).netloc, way

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Relayed(BaseHTTPRequestHandler):
    """A request on its way through the proxy."""

    protocol_version = "HTTP/1.1"
    server: Relay

    def relay(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        line = http.client.HTTPConnection(self.server.target, timeout=60)
        try:
            line.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in HOP:
                    line.putheader(name, value)
            line.endheaders(body)
            self.pass_on(line.getresponse())
        finally:
            line.close()

    def pass_on(self, answer: http.client.HTTPResponse) -> None:
        coded = CODED.get(self.server.way) if "event-stream" not in answer.getheader("Content-Type", "") else None
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in (*HOP, "content-length"):
                self.send_header(name, value)
        if coded:
            self.send_header("Content-Encoding", self.server.way)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        whole = iter([coded(answer.read())]) if coded else iter(lambda: answer.read1(2**16), b"")
        for part in whole:
            self.cut(part)
        self.wfile.write(b"0\r\n\r\n")

    def cut(self, part: bytes) -> None:
        draw, start = random.Random(len(part)), 0
        while start < len(part):
            chunk = part[start : start + draw.choice((1, 7, 1000, 2**15))]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            start += len(chunk)

    do_GET = do_POST = do_DELETE = do_HEAD = relay

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def relaying(base: str, way: str) -> Iterator[str]:
    """Run a proxy before a service, and yield its URL."""
    with Relay(base, way) as relay:
        thread = threading.Thread(target=relay.serve_forever)
        thread.start()
        try:
            yield relay.url
        finally:
            relay.shutdown()
            thread.join()


@pytest.fixture(scope="session")
def reach() -> Iterator[Callable[[str, str], str]]:
    """Return what gives the URL by which a service is reached in one of the ways."""
    with ExitStack() as held:
        known: dict[tuple[str, str], str] = {}

        def url(base: str, way: str) -> str:
            if way in ("direct", "forked"):
                return base
            if (base, way) not in known:
                known[base, way] = held.enter_context(relaying(base, way))
            return known[base, way]

        yield url


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> object:
    """Run a test whose parameter `way` is `forked` in a child of this process, with all that its fixtures made here."""
    callspec = getattr(pyfuncitem, "callspec", None)
    if callspec is None or callspec.params.get("way") != "forked":
        return None
    names = pyfuncitem._fixtureinfo.argnames
    told = in_child(lambda: pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    if told:
        pytest.fail(f"in the forked child:\n{told}", pytrace=False)
    return True


def in_child(run: Callable[[], object]) -> str:
    """Run something in a forked child; return the traceback of what it raised, or nothing."""
    mine, its = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that this process has threads is the point of it
        child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(CHILD_S)  # it would outlive this process, were it to hang
        try:
            run()
        except BaseException:
            os.write(its, traceback.format_exc().encode()[-60_000:])
        finally:
            os._exit(0)
    os.close(its)
    with open(mine, "rb") as pipe:
        told = pipe.read().decode(errors="replace")
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return told or (f"it ended with {status}" if status else "")
