"""The house rules: what lies where, what imports what, what is shipped."""

import json
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable
from importlib.metadata import distribution, packages_distributions, version
from pathlib import Path
from typing import Any

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement

from normtree.extras import MODULES

ROOT = Path(__file__).parents[2]
TOP_LEVEL = {
    "pyproject.toml",
    "service",
    "kernels",
    "deploy",
    "tests",
    "loadtests",
    "README.md",
    "Makefile",
    "CHANGELOG.md",
    "LICENSE",
}
NO_PACKAGES = ("service", "kernels", "deploy", "tests", "loadtests")
# By the extra that brings them: none, what everybody gets. Extras that bring others' are told as they say it.
DEPENDENCIES = {
    "": {
        "google-re2",
        "ml-dtypes",
        "numba",
        "numpy",
        "pydantic",
        "pydantic-settings",
        "rich",
        "safetensors",
        "typer",
    },
    "client": {"httpx"},
    "service": {"normtree[client]", "fastapi", "fastapi-offline", "prometheus-client", "uvicorn[standard]"},
    "ray": {"ray[default]"},
    "serve": {"normtree[service,ray]", "ray[serve]"},
    "s3": {"fsspec", "s3fs"},
    "otel": {
        "normtree[service]",
        "opentelemetry-exporter-otlp-proto-http",
        "opentelemetry-instrumentation-fastapi",
    },
    "torch": {"normtree[client]", "torch"},
    "all": {"normtree[service,ray,serve,s3,otel,torch]"},
}
OWN_TOOLS = {"dev", "fuzz", "bench", "load", "compare"}
EVERY_DEPENDENCY = {name.partition("[")[0] for names in DEPENDENCIES.values() for name in names} - {"normtree"}


def run(*command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def top_level_entries() -> set[str]:
    """Return what git tracks or would track; outside a checkout (an sdist, say), what lies there."""
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard")
    if listed.returncode == 0:
        return {line.split("/")[0] for line in listed.stdout.splitlines()}
    return {entry.name for entry in ROOT.iterdir()} - {"PKG-INFO"}


def loaded_by(module: str, suspects: Iterable[str], cwd: Path) -> list[str]:
    """Import `module` in a fresh interpreter, away from the checkout, and return the suspects it loaded."""
    code = f"import json, sys, {module}; print(json.dumps(sorted({set(suspects)} & sys.modules.keys())))"
    done = run(sys.executable, "-I", "-c", code, cwd=cwd)
    assert done.returncode == 0, done.stderr
    names: list[str] = json.loads(done.stdout)
    return names


def any_extra(marker: Marker, extras: Iterable[str]) -> bool:
    return any(marker.evaluate({"extra": extra}) for extra in extras)


def brought_by(extra: str, extras: dict[str, list[str]]) -> set[str]:
    """Name the distributions of an extra, and of those it is made of; and what of theirs they ask for."""
    found: set[str] = set()
    for line in map(Requirement, extras[extra]):
        if line.name == "normtree":
            found |= {name for each in line.extras for name in brought_by(each, extras)}
        else:
            found.add(line.name)
            asked = map(Requirement, distribution(line.name).requires or ())
            found |= {each.name for each in asked if each.marker and any_extra(each.marker, line.extras)}
    return found


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return table


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("wheel")
    built = run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder))
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_top_level_holds_only_what_the_layout_allows() -> None:
    stray = {name for name in top_level_entries() - TOP_LEVEL if not name.startswith(".")}
    assert stray == set()


@pytest.mark.parametrize("folder", NO_PACKAGES)
def test_top_level_folders_are_not_packages(folder: str) -> None:
    assert not (ROOT / folder / "__init__.py").exists()


@pytest.mark.parametrize(
    ("module", "suspects"),
    [
        ("normtree", ["ray", "fastapi", "starlette", "numba"]),
        ("normtree.client", ["ray", "fastapi", "starlette", "numba"]),
        ("normtree_kernels", ["normtree", "ray", "fastapi", "starlette", "numba"]),
    ],
)
def test_import_loads_none_of(module: str, suspects: list[str], tmp_path: Path) -> None:
    assert loaded_by(module, suspects, cwd=tmp_path) == []


def test_import_contracts_hold() -> None:
    linted = run(str(Path(sys.executable).with_name("lint-imports")), "--no-logo", "--no-cache")
    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_version_is_the_distributions(project: dict[str, Any], tmp_path: Path) -> None:
    shown = run(sys.executable, "-I", "-c", "import normtree; print(normtree.__version__)", cwd=tmp_path)
    assert shown.stdout.strip() == project["version"] == version("normtree")


def test_runtime_dependencies_are_the_permitted_ones(project: dict[str, Any]) -> None:
    extras = {"": project["dependencies"], **project["optional-dependencies"]}
    names = {
        extra: sorted(canonical(re.split(r"[<>=!~; ]", line)[0]) for line in lines)
        for extra, lines in extras.items()
        if extra not in OWN_TOOLS
    }
    assert names == {extra: sorted(permitted) for extra, permitted in DEPENDENCIES.items()}
    assert "normtree[service,ray,serve,s3]" in extras["dev"]  # torch and OpenTelemetry are for tests that may skip


def test_extras_know_what_they_bring(project: dict[str, Any]) -> None:
    """Each module by which an extra is known is of a distribution that it, or an extra in it, names."""
    brought = packages_distributions()
    for extra, modules in MODULES.items():
        named = {canonical(name) for name in brought_by(extra, project["optional-dependencies"])}
        assert all(named & set(map(canonical, brought[module])) for module in modules), extra


@pytest.mark.parametrize("name", sorted(EVERY_DEPENDENCY))
def test_a_reason_is_given_for_each_dependency(name: str) -> None:
    page = (ROOT / ".github" / "CONTRIBUTING.md").read_text("utf-8")
    section = re.search(r"^## A reason for each dependency\n.*?(?=^#{1,2} |\Z)", page, re.DOTALL | re.MULTILINE)
    assert section, "CONTRIBUTING.md gives no reasons"
    words = {canonical(word) for word in re.findall(r"[\w.-]*\w", section.group())}
    assert name in words


@pytest.mark.parametrize("package", ["normtree", "normtree_kernels"])
def test_wheel_ships_the_package_typed(wheel_names: list[str], package: str) -> None:
    assert {f"{package}/__init__.py", f"{package}/py.typed"} <= set(wheel_names)


def test_wheel_holds_the_two_packages_only(wheel_names: list[str]) -> None:
    tops = {name.split("/")[0] for name in wheel_names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"normtree", "normtree_kernels"}
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel_names)
