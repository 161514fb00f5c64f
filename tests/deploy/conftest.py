"""What the tests of deploy/ share: the files, read as those who will read them do."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


class StrictLoader(yaml.SafeLoader):
    """YAML in which a key may stand once: whoever reads the second only would not tell."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge":
                name = self.construct_object(key, deep=True)
                assert name not in seen, f"{key.start_mark}: {name!r} stands twice"
                seen.add(name)
        return super().construct_mapping(node, deep)


def documents(path: Path) -> list[Any]:
    return list(yaml.load_all(path.read_text("utf-8"), StrictLoader))


def walk(value: Any) -> Iterator[Any]:
    """Yield a value and all that is inside it."""
    yield value
    if isinstance(value, dict | list):
        for child in value.values() if isinstance(value, dict) else value:
            yield from walk(child)


@pytest.fixture(scope="session")
def deploy() -> Path:
    return DEPLOY


@pytest.fixture(scope="session")
def read_yaml() -> Any:
    """The one document of a YAML file."""

    def read(*parts: str) -> Any:
        (document,) = documents(DEPLOY.joinpath(*parts))
        return document

    return read


@pytest.fixture(scope="session")
def kubernetes() -> list[dict[str, Any]]:
    """Every object of deploy/kubernetes."""
    files = sorted(DEPLOY.glob("kubernetes/*.yaml"))
    return [item for path in files if path.name != "kustomization.yaml" for item in documents(path)]


@pytest.fixture(scope="session")
def compose(read_yaml: Any) -> dict[str, Any]:
    found: dict[str, Any] = read_yaml("compose.yaml")
    return found


@pytest.fixture(scope="session")
def inside() -> Any:
    return walk


@pytest.fixture(scope="session")
def texts() -> dict[Path, str]:
    """Every text file of deploy/ and what it says."""
    return {path: path.read_text("utf-8") for path in sorted(DEPLOY.rglob("*")) if path.is_file()}


@pytest.fixture(scope="session")
def pods(kubernetes: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Every pod's specification in deploy/kubernetes, by a name that says where it is."""
    found = {}
    for item in kubernetes:
        for index, value in enumerate(walk(item)):
            if isinstance(value, dict) and "containers" in value:
                found[f"{item['kind']}/{item['metadata']['name']}/{index}"] = value
    assert found
    return found


@pytest.fixture(scope="session")
def dockerfile() -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order, continued lines joined."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text("utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines) if word]
