"""What is shipped, installed as strangers install it: into fresh environments, by pip, with one extra or none.

Nothing is blocked or faked: an environment lacks what its installation did not bring. That of an extra stands on the
bare one, whose packages it finds by a `.pth` file, so that pip brings what the extra adds and no more.
"""

import json
import os
import signal
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile, rmtree, which
from time import monotonic, sleep

import httpx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import normtree_kernels as nk
from normtree.engine.kernels import DIFFERENCE, FIRST, Kernels, prepare
from normtree.processes.starting import free_port

ROOT = Path(__file__).parents[2]
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
PYTHONS = ("3.11", "3.12", "3.13")
# Before fixtures point the cache elsewhere.
PIP_CACHE = os.environ.get("PIP_CACHE_DIR") or f"{os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'}/pip"
READY_S = 120.0
pytestmark = pytest.mark.timeout(900)  # what is not in pip's cache yet comes over the network
RNG = np.random.default_rng(7)

# What is not for everybody, by the extra that brings it; the longest name counts.
WANTS = {
    "normtree.client": "client",
    "normtree.commands.demo": "service",
    "normtree.http": "service",
    "normtree.http.on_serve": "serve",
    "normtree.processes.starting": "client",
    "normtree.on_ray": "ray",
    "normtree.jobs.tasks.on_ray": "ray",
    "normtree.engine.cluster.driver": "ray",
    "normtree.jobs.storage.remote": "s3",
}
# What an extra brings besides itself; each environment stands on those of its parents.
PARENTS = {
    "client": (),
    "service": ("client",),
    "otel": ("service", "client"),
    "ray": (),
    "serve": ("ray", "service", "client"),
    "s3": (),
}
IMPORT = """
import importlib, json, sys
wrong = {}
for name in json.load(sys.stdin):
    try:
        importlib.import_module(name)
    except ImportError as error:
        wrong[name] = f"{type(error).__name__}: {error}"
print(json.dumps(wrong))
"""


@dataclass(frozen=True)
class Shipped:
    """What was built: an sdist from the checkout, and from that the wheel, as build tools do."""

    sdist: Path
    wheel: Path

    @property
    def modules(self) -> list[str]:
        """All modules of the wheel."""
        with zipfile.ZipFile(self.wheel) as archive:
            names = [name.removesuffix(".py") for name in archive.namelist() if name.endswith(".py")]
        return sorted(name.replace("/", ".").removesuffix(".__init__") for name in names)


@dataclass(frozen=True)
class Room:
    """An environment.

    Args:
        folder: where it lies.
        version: of its Python.
    """

    folder: Path
    version: str

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def site(self) -> Path:
        return self.folder / "lib" / f"python{self.version}" / "site-packages"

    def run(self, *command: str | Path, given: str | None = None) -> "subprocess.CompletedProcess[str]":
        """Run a command of the environment's; the checkout is on no path."""
        return subprocess.run(
            [self.folder / "bin" / command[0], *command[1:]],
            cwd=self.folder, env=self.environment(), input=given, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def environment(self, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("NORMTREE_", "PYTHON"))}
        return {**kept, "COLUMNS": "120", **more}

    def unimportable(self, modules: Sequence[str]) -> dict[str, str]:
        """Import modules, and return what is wrong with those that cannot be."""
        done = self.run("python", "-c", IMPORT, given=json.dumps(modules))
        assert done.returncode == 0, done.stderr
        found: dict[str, str] = json.loads(done.stdout)
        return found

    def distributions(self) -> set[str]:
        return {path.name.partition("-")[0].lower() for path in self.site.glob("*.dist-info")}


def interpreter(version: str) -> Path | None:
    """Find a Python of a version: on the PATH, where a name may be a shim of one that is not active, or pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    for found in (which(f"python{version}"), *pyenv.glob(f"versions/{version}.*/bin/python{version}")):
        if found and subprocess.run([found, "-c", "import venv"], capture_output=True, check=False).returncode == 0:
            return Path(found)
    return None


def built(kind: str, source: Path, folder: Path) -> Path:
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", folder],
        cwd=source, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (found,) = folder.iterdir()
    return found


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Shipped:
    sdist = built("sdist", ROOT, tmp_path_factory.mktemp("sdist"))
    unpacked = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    (source,) = unpacked.iterdir()
    return Shipped(sdist, built("wheel", source, tmp_path_factory.mktemp("wheel")))


def pip(python: Path, *arguments: str | Path) -> None:
    """Run pip for an environment, with a machine's own configuration."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "-qq", "--no-compile", *arguments],
        env={**os.environ, "PIP_CACHE_DIR": PIP_CACHE, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def made(folder: Path, python: Path, version: str, parents: Sequence[Room] = ()) -> Room:
    """Make an environment without pip, which finds the packages of others too."""
    done = subprocess.run([python, "-m", "venv", "--without-pip", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    room = Room(folder, version)
    (room.site / "parents.pth").write_text("".join(f"{parent.site}\n" for parent in parents))
    return room


def remove(rooms: dict[str, Room]) -> None:
    """Remove environments, of which pytest would keep those of three runs, a gigabyte each."""
    for room in rooms.values():
        rmtree(room.folder)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> None:
    """See whether pip can install something small; on CI it must."""
    room = made(tmp_path_factory.mktemp("registry") / "room", Path(sys.executable), HERE)
    try:
        pip(room.python, "--retries", "0", "--timeout", "15", "idna")
    except AssertionError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"pip reaches no registry to install from: {error}")


@pytest.fixture(scope="module")
def bare(shipped: Shipped, registry: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Room]]:
    """Return what makes the bare installation of a Python, once: of the sdist for one version, of the wheel for all."""
    rooms: dict[str, Room] = {}

    def room(version: str) -> Room:
        if version not in rooms:
            python = interpreter(version)
            if python is None:
                pytest.skip(f"this machine has no Python {version}")
            rooms[version] = found = made(tmp_path_factory.mktemp("bare") / "room", python, version)
            pip(found.python, shipped.sdist if version == PYTHONS[1] else shipped.wheel)
            if version == HERE:  # machine code of these very sources serves there, where Numba is the same too
                prepare([*FIRST, Kernels(DIFFERENCE, "float32")])
                for code in (ROOT / "kernels" / "normtree_kernels" / "__pycache__").glob("*.nbc"):
                    kept = found.site / "normtree_kernels" / "__pycache__" / code.name
                    kept.parent.mkdir(exist_ok=True)
                    copyfile(code, kept)
        return rooms[version]

    yield room
    remove(rooms)


@pytest.fixture(scope="module")
def with_extra(
    bare: Callable[[str], Room], shipped: Shipped, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Room]]:
    """Return what installs an extra beside the bare installation, once."""
    rooms: dict[str, Room] = {}

    def room(extra: str) -> Room:
        if extra not in rooms:
            parents = [*map(room, PARENTS[extra]), bare(HERE)]
            rooms[extra] = found = made(tmp_path_factory.mktemp(extra) / "room", Path(sys.executable), HERE, parents)
            pip(found.python, f"normtree[{extra}] @ {shipped.wheel.as_uri()}")
        return rooms[extra]

    yield room
    remove(rooms)


def extra_of(module: str) -> str | None:
    """Name the extra that a module wants."""
    parts = module.split(".")
    names = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((WANTS[name] for name in names if name in WANTS), None)


def test_the_sdist_makes_the_wheel_that_the_checkout_makes(shipped: Shipped, tmp_path: Path) -> None:
    assert built("wheel", ROOT, tmp_path).read_bytes() == shipped.wheel.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("version", PYTHONS)
def test_a_bare_installation_projects_and_imports_what_needs_no_extra(
    version: str, bare: Callable[[str], Room], shipped: Shipped, tmp_path: Path
) -> None:
    room = bare(version)
    assert not {"ray", "fastapi", "httpx", "fsspec"} & room.distributions()
    assert set(room.unimportable(shipped.modules)) == {module for module in shipped.modules if extra_of(module)}
    np.save(tmp_path / "y.npy", y := RNG.standard_normal((64, 48), np.float32))
    given = ("--norm", "linf", "--radius", "0.5")  # of all norms the one that compiles soonest
    done = room.run("normtree", "project", tmp_path / "y.npy", tmp_path / "x.npy", *given)
    assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "x.npy").tobytes() == nk.project(y, "linf", 0.5).tobytes()


@pytest.mark.slow
def test_a_bare_installation_runs_a_job_on_threads(bare: Callable[[str], Room], tmp_path: Path) -> None:
    y = RNG.standard_normal((64, 48), np.float32)
    save_file({"layer.weight": y, "layer.bias": y[0]}, tmp_path / "model.safetensors")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("input = 'model.safetensors'\noutput = 'out.safetensors'\n"
                      "[[rules]]\ntensors = '.*weight'\nsparsity = 0.9\n")  # fmt: skip
    done = bare(HERE).run("normtree", "job", "run", recipe)
    assert done.returncode == 0, done.stderr
    assert "on inline" in done.stdout
    x = load_file(tmp_path / "out.safetensors")["layer.weight"]
    assert x.tobytes() == nk.project(y, "l1,linf", sparsity=0.9).tobytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["serve"], "'serve' wants the extra 'service': pip install 'normtree[service]'"),
        (["demo"], "'demo' wants the extras 'service' and 'ray': pip install 'normtree[service,ray]'"),
        (["project", "y.npy", "x.npy", "--radius", "1", "--engine", "ray"],
         "'--engine ray' wants the extra 'ray': pip install 'normtree[ray]'"),
        (["plan", "64x48", "--engine", "ray"], "'--engine ray' wants the extra 'ray': pip install 'normtree[ray]'"),
        (["job", "run", "local.toml", "--engine", "ray"],
         "'a job on Ray' wants the extra 'ray': pip install 'normtree[ray]'"),
        (["job", "plan", "local.toml", "--address", "auto"],
         "'a job on Ray' wants the extra 'ray': pip install 'normtree[ray]'"),
        (["job", "run", "stored.toml"], "'a URL' wants the extra 's3': pip install 'normtree[s3]'"),
    ],
)  # fmt: skip
def test_a_command_says_which_extra_it_lacks(command: list[str], told: str, bare: Callable[[str], Room]) -> None:
    room = bare(HERE)
    np.save(room.folder / "y.npy", np.ones((4, 4), np.float32))
    for name, place in (("local", "y.safetensors"), ("stored", "s3://bucket/model")):
        text = f"input = '{place}'\noutput = 'out'\n[[rules]]\ntensors = '.*'\nsparsity = 0.5\n"
        (room.folder / f"{name}.toml").write_text(text)
    done = room.run("normtree", *command)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"normtree: {told}\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "extra"),
    [
        ("import normtree.on_ray", "ray"),
        ("import normtree.client", "client"),
        ("import normtree; normtree.Client", "client"),
        ("import normtree.http.serve", "service"),
    ],
)
def test_an_import_says_which_extra_it_lacks(code: str, extra: str, bare: Callable[[str], Room]) -> None:
    done = bare(HERE).run("python", "-c", code)
    told = done.stderr.splitlines()[-1]
    assert told.startswith("normtree.extras.ExtraMissing: 'normtree.")
    assert told.endswith(f" wants the extra '{extra}': pip install 'normtree[{extra}]'")


@pytest.mark.slow
def test_settings_without_ray_are_those_of_threads(bare: Callable[[str], Room]) -> None:
    code = "from normtree.settings import Settings; print(Settings(**eval(input())).inline_only)"
    done = bare(HERE).run("python", "-c", code, given="{}")
    assert done.stdout == "True\n", done.stderr
    for setting, asked in (("inline_only", False), ("ray_address", "auto")):
        done = bare(HERE).run("python", "-c", code, given=repr({setting: asked}))
        assert "wants the extra 'ray': pip install 'normtree[ray]'" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("extra", PARENTS)
def test_an_extra_brings_what_it_promises(extra: str, with_extra: Callable[[str], Room], shipped: Shipped) -> None:
    brought = {None, extra, *PARENTS[extra]}
    promised = [module for module in shipped.modules if extra_of(module) in brought]
    assert with_extra(extra).unimportable(promised) == {}


@pytest.fixture
def served(with_extra: Callable[[str], Room], tmp_path: Path) -> Iterator[str]:
    """A service of an installation without Ray."""
    room, port = with_extra("service"), free_port()
    with (tmp_path / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [room.python, "-m", "normtree.cli", "serve", "--port", str(port)],
            cwd=tmp_path, env=room.environment(), stdout=log, stderr=log,
        )  # fmt: skip
    try:
        end_s = monotonic() + READY_S
        while monotonic() < end_s and process.poll() is None:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/v2/health/ready").is_success:
                    break
            except httpx.TransportError:
                pass
            sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        status = process.wait()
    assert status == 0, (tmp_path / "log.txt").read_text()
    assert "Ray is not installed" in (tmp_path / "log.txt").read_text()


@pytest.mark.slow
def test_a_service_without_ray_serves_on_threads(served: str, with_extra: Callable[[str], Room]) -> None:
    assert httpx.get(f"{served}/v1/info").json()["engine"]["ray"] is None
    ask = (
        "import sys, numpy as np, normtree\n"
        "with normtree.Client(sys.argv[1]) as client:\n"
        "    answer = client.project(np.eye(64, dtype=np.float32), 'l1,linf', 32.0)\n"
        "print(answer.timing['engine'], answer.x.max())\n"
    )
    done = with_extra("client").run("python", "-c", ask, served)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["inline", "0.5"]
