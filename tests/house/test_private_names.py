"""Names that libraries do not promise to keep: each is listed, each is there, and no later version is installed."""

import ast
import inspect
import re
import tomllib
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
LISTED: dict[str, Any] = tomllib.loads(Path(__file__).with_name("private_names.toml").read_text("utf-8"))


def found(dotted: str) -> Any:
    """Return what a name means, of which the first words are modules."""
    words = dotted.split(".")
    for count in range(len(words), 0, -1):
        try:
            thing = import_module(".".join(words[:count]))
        except ModuleNotFoundError:
            continue
        for word in words[count:]:
            thing = getattr(thing, word)
        return thing
    raise ModuleNotFoundError(dotted)


def private_imports() -> Iterator[str]:
    """Yield what our sources import of these libraries by a name with an underscore at the front of any word."""
    for folder in ("kernels", "service"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in LISTED:
                    yield from (f"{node.module}.{alias.name}" for alias in node.names)
                elif isinstance(node, ast.Import):
                    yield from (alias.name for alias in node.names if alias.name.split(".")[0] in LISTED)


@pytest.mark.parametrize("library", LISTED)
def test_each_name_is_there(library: str) -> None:
    for name in LISTED[library]["names"]:
        found(name)
    for name, attributes in LISTED[library]["attributes"].items():
        sources = [inspect.getsource(each) for each in found(name).__mro__ if each.__module__.startswith(library)]
        for attribute in attributes:
            assert any(re.search(rf"\bself\.{attribute}\b", source) for source in sources), f"{name}.{attribute}"


@pytest.mark.parametrize("library", LISTED)
def test_no_later_version_than_those_that_were_read(library: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *(line for lines in project["optional-dependencies"].values() for line in lines),
    ]
    pins = [line for line in wanted if re.split(r"[\[<>=]", line)[0] == library]
    assert pins
    below = LISTED[library]["below"]
    assert all(line.endswith(f"<{below}") for line in pins if ">=" in line), pins
    numbers = [tuple(map(int, text.split(".")[:2])) for text in (version(library), below, LISTED[library]["version"])]
    assert numbers[0] < numbers[1]
    assert numbers[2] < numbers[1]


def test_no_private_name_is_missing() -> None:
    listed = {name for library in LISTED.values() for name in library["names"]}
    imported = {name for name in private_imports() if any(word.startswith("_") for word in name.split("."))}
    assert imported
    assert all(any(name.startswith(each) for name in listed) for each in imported), imported - listed
