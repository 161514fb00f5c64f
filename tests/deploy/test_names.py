"""What is named in deploy/ is there: settings, commands, files, versions, ports; and no secret is."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import typer
import yaml

from normtree.cli import app
from normtree.processes.starting import free_port
from normtree.settings import Settings

ROOT = Path(__file__).parents[2]
# What the operator puts there.
OPERATORS = ("deploy/secrets", "deploy/checkpoints")
COMMAND = re.compile(
    r"(?:^|[\s;&`(/])(?<!-n )(?<!stop )(?<!--now )"  # not a namespace's or a unit's name
    r"normtree((?: [a-z]+)+)([^\n|;&`]*)",
    re.MULTILINE,
)
RUNS_NOTHING = {"prometheus", "grafana"}


def version() -> str:
    found: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    return found


def settings_named(text: str) -> set[str]:
    return set(re.findall(r"\bNORMTREE_([A-Z][A-Z0-9_]*[A-Z0-9])\b(?!\*)", text))


def test_every_setting_exists(texts: dict[Path, str]) -> None:
    known = {name.upper() for name in Settings.model_fields}
    named = {path: settings_named(text) - {"HEAD_SVC"} for path, text in texts.items()}
    assert len({name for names in named.values() for name in names}) >= 7
    for path, names in named.items():
        assert names <= known, path


def values(document: Any, inside: Any) -> dict[str, str]:
    """The settings of every container in a document."""
    found = {}
    for value in inside(document):
        if isinstance(value, dict):
            if str(value.get("name", "")).startswith("NORMTREE_"):
                found[value["name"][9:].lower()] = value["value"]
            found |= {k[9:].lower(): v for k, v in value.items() if isinstance(k, str) and k.startswith("NORMTREE_")}
    return found


def test_settings_have_values_that_are_permitted(
    kubernetes: list[dict[str, Any]], compose: dict[str, Any], inside: Any, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"test sha256:{'0' * 64}\n")
    for document in (kubernetes, compose):
        given = {**values(document, inside), "keys_file": keys}
        if "jobs_roots" in given:
            given["jobs_roots"] = str(tmp_path)  # /checkpoints is in the container
        given["workers"] = re.sub(r"\$\{\w+:-(\w+)\}", r"\1", str(given["workers"]))
        settings = Settings.model_validate(given)
        assert settings.host == "0.0.0.0"
        assert not settings.insecure
        assert settings.port == 8000


def test_health_is_asked_for_past_every_proxy(texts: dict[Path, str], deploy: Path, tmp_path: Path) -> None:
    """Docker hands its own proxies to every container."""
    for path, text in texts.items():
        assert "urlopen" not in text, path
    (program,) = re.findall(r'from urllib.request import [^"]+', (deploy / "Dockerfile").read_text())
    (tmp_path / "v2" / "health").mkdir(parents=True)
    (tmp_path / "v2" / "health" / "ready").touch()
    port, nobody = free_port(), free_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            environment = {"http_proxy": f"http://127.0.0.1:{nobody}", "HTTP_PROXY": f"http://127.0.0.1:{nobody}"}
            asked = [sys.executable, "-c", program.replace(":8000/", f":{port}/")]
            end_s = monotonic() + 60
            while (done := subprocess.run(asked, env=environment, capture_output=True, check=False)).returncode:
                assert monotonic() < end_s, done.stderr
        finally:
            server.kill()


def commands(text: str) -> list[tuple[list[str], list[str]]]:
    """The uses of ``normtree`` on a command line, as words and options."""
    return [(m[1].split(), re.findall(r"(?<=\s)--[a-z-]+", m[2])) for m in COMMAND.finditer(text)]


def as_shell(path: Path, text: str, inside: Any) -> str:
    """What of a file is commands: of prose the code, of YAML lists and strings, of the rest all but comments."""
    if path.suffix == ".md":
        blocks = re.findall(r"^```bash\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        return "\n".join(blocks + re.findall(r"`([^`\n]+)`", text)).replace("\\\n", " ")
    if path.suffix == ".yaml":
        found = [value for document in yaml.safe_load_all(text) for value in inside(document)]
        lists = [" ".join(map(str, value)) for value in found if isinstance(value, list)]
        return "\n".join(lists + [value for value in found if isinstance(value, str)])
    text = re.sub(r"(?m)^\s*(?:#|COPY|LABEL).*$", "", text).replace("\\\n", " ")
    return re.sub(r'[\[\],"]+', " ", text).replace("  ", " ")


def test_every_command_and_option_exists(texts: dict[Path, str], inside: Any) -> None:
    root: Any = typer.main.get_command(app)
    checked = set()
    for path, text in texts.items():
        if path.suffix == ".txt" or RUNS_NOTHING & set(path.parts):
            continue
        for words, options in commands(as_shell(path, text, inside)):
            command = root
            for word in words:
                if not hasattr(command, "commands"):
                    break
                assert word in command.commands, f"{path.name}: normtree {' '.join(words)}"
                command = command.commands[word]
            known = {name for parameter in command.params for name in parameter.opts} | {"--help"}
            assert set(options) <= known, f"{path.name}: {words} {options}"
            checked.add(command.name)
    assert checked >= {"serve", "new", "run"}


def test_ray_is_told_its_mode_wherever_it_is_started(texts: dict[Path, str], inside: Any) -> None:
    for path, text in texts.items():
        if re.search(r"\bray start\b", as_shell(path, text, inside)) or "rayStartParams" in text:
            assert re.search(r"RAY_AUTH_MODE|normtree\.env", text), path
        for mode in re.findall(r"RAY_AUTH_MODE(?:=|: |, value: )\"?(\w+)", text):
            assert mode == "token", path


def test_images_are_of_this_version(texts: dict[Path, str], read_yaml: Any) -> None:
    images = {image for text in texts.values() for image in re.findall(r"image: (\S*normtree\S*)", text)}
    assert images == {f"registry.example.com/normtree:{version()}", f"normtree:{version()}"}
    (override,) = read_yaml("kubernetes", "kustomization.yaml")["images"]
    assert override == {"name": "registry.example.com/normtree", "newTag": version()}


def test_ray_is_of_the_pinned_version(texts: dict[Path, str], deploy: Path) -> None:
    (pinned,) = re.findall(r"^ray==(\S+)$", (deploy / "constraints.txt").read_text(), re.MULTILINE)
    named = {found for text in texts.values() for found in re.findall(r"rayVersion: (\S+)", text)}
    assert named == {pinned}


def test_paths_in_prose_exist(texts: dict[Path, str], deploy: Path) -> None:
    for path, text in texts.items():
        for link in re.findall(r"\]\(([^)#:]+)[)#]", text) if path.suffix == ".md" else ():
            assert (path.parent / link).exists(), f"{path.name}: {link}"
        for file in re.findall(r"(?<!logs )\bdeploy/[\w./-]*\w", text):
            if not file.startswith(OPERATORS):
                assert (ROOT / file).exists(), f"{path.name}: {file}"


def test_secrets_are_neither_here_nor_tracked(texts: dict[Path, str], deploy: Path) -> None:
    tracked = subprocess.run(
        ["git", "check-ignore", "-q", "deploy/secrets/ray-token"], cwd=ROOT, capture_output=True, check=False
    )
    if tracked.returncode == 128:
        pytest.skip("not a checkout")
    assert tracked.returncode == 0
    for path, text in texts.items():
        if "secrets" not in path.parts:
            assert not re.search(r"\b[0-9a-f]{64}\b|nt_[A-Za-z0-9_-]{20}", text), path
