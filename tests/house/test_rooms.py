"""Rooms: no folder is full, no name is taken twice, and the contracts of imports know every module."""

import ast
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"normtree": ROOT / "service" / "normtree", "normtree_kernels": ROOT / "kernels" / "normtree_kernels"}
MOST_FILES, MOST_NAMES_TWICE = 12, 6
NO_SOURCES = {"__pycache__", "results", "tmp"}  # the load tests' results are data


def folders(top: Path) -> Iterator[Path]:
    for folder in (top, *top.rglob("*/")):
        inside = folder.relative_to(ROOT).parts
        if folder.is_dir() and not NO_SOURCES & {*inside} and not any(name.startswith(".") for name in inside):
            yield folder


def sources(package: str) -> list[Path]:
    return sorted(PACKAGES[package].rglob("*.py"))


@pytest.mark.parametrize("top", ["kernels", "service", "loadtests", "tests"])
def test_no_folder_is_full(top: str) -> None:
    counts = {folder: sum(path.is_file() for path in folder.iterdir()) for folder in folders(ROOT / top)}
    assert {str(folder): count for folder, count in counts.items() if count > MOST_FILES} == {}


def test_no_two_classes_have_one_name() -> None:
    names = Counter(
        node.name
        for package in PACKAGES
        for path in sources(package)
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_few_files_have_one_name(package: str) -> None:
    names = Counter(path.name for path in sources(package) if path.name != "__init__.py")
    assert len([name for name, count in names.items() if count > 1]) <= MOST_NAMES_TWICE


def test_each_package_has_a_contract_that_names_all_in_it() -> None:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    contained = [name for each in table if each.get("exhaustive") for name in each["containers"]]
    packages = {
        ".".join(path.parent.relative_to(top.parent).parts)
        for top in PACKAGES.values()
        for path in top.rglob("__init__.py")
    }
    assert sorted(contained) == sorted(packages)
