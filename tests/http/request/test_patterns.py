"""Names of tensors are matched by one language, RE2's, wherever a pattern comes in."""

import asyncio
import json
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import httpx
import numpy as np
import pytest
from safetensors.numpy import load, load_file, save, save_file
from typer.testing import CliRunner

import normtree
from normtree.cli import app
from normtree.errors import InvalidParameter
from normtree.text.patterns import compile_pattern

NAMES = ("layer.1", "läyer.1", "layer\n1", "layer.layer", "bias.1")
TENSORS = {name: np.full((3, 4), 1.0 + index) for index, name in enumerate(NAMES)}
RADIUS = 0.5
JOB_S = 120
SELECTED = {
    r"\w+\.1": {"layer.1", "bias.1"},  # letters of words are ASCII's
    r"layer.1": {"layer.1", "layer\n1"},  # a dot is any letter
    r"\pL+\.\pN": {"layer.1", "läyer.1", "bias.1"},
    r"(\w+)\.\1": None,
    r"(?!bias).*": None,
}


def in_python(pattern: str) -> set[str] | None:
    try:
        return {name for name in NAMES if re.fullmatch(pattern, name)}
    except re.error:
        return None


def changed(x: Mapping[str, object]) -> set[str]:
    assert x.keys() == TENSORS.keys()
    return {name for name in NAMES if not np.array_equal(np.asarray(x[name]), TENSORS[name])}


def rule(pattern: str, key: str) -> dict[str, object]:
    return {"tensors": ".*", "radius": RADIUS, key: pattern}


def by_post(service: str, folder: Path, pattern: str) -> set[str] | None:
    answer = httpx.post(
        f"{service}/v1/project", params={"radius": RADIUS, "tensors": pattern}, content=save(TENSORS),
        headers={"Content-Type": "application/vnd.safetensors"}, timeout=60,
    )  # fmt: skip
    if answer.status_code == 200:
        return changed(load(answer.content))
    assert (answer.status_code, answer.json()["pointer"]) == (422, "tensors"), answer.text
    return None


def by_client(service: str, folder: Path, pattern: str) -> set[str] | None:
    with normtree.Client(service) as client:
        try:
            return changed(client.project_tensors(TENSORS, radius=RADIUS, pattern=pattern).tensors)
        except InvalidParameter:
            return None


def by_async_client(service: str, folder: Path, pattern: str) -> set[str] | None:
    async def ask() -> set[str] | None:
        async with normtree.AsyncClient(service) as client:
            return changed((await client.project_tensors(TENSORS, radius=RADIUS, pattern=pattern)).tensors)

    try:
        return asyncio.run(ask())
    except InvalidParameter:
        return None


def by_command(service: str, folder: Path, pattern: str) -> set[str] | None:
    save_file(TENSORS, folder / "in.safetensors")
    files = [str(folder / name) for name in ("in.safetensors", "out.safetensors")]
    done = CliRunner().invoke(app, ["project", *files, "--radius", str(RADIUS), "--tensor", pattern])
    if done.exit_code == 0:
        return changed(load_file(folder / "out.safetensors"))
    assert "in the syntax of RE2" in done.stderr
    return None


def by_recipe(service: str, folder: Path, pattern: str, key: str = "tensors") -> set[str] | None:
    save_file(TENSORS, folder / "in.safetensors")
    table = "".join(f"{name} = {json.dumps(value)}\n" for name, value in rule(pattern, key).items())
    recipe = folder / "recipe.toml"
    recipe.write_text(f"input = 'in.safetensors'\noutput = 'out.safetensors'\n[[rules]]\n{table}")
    done = CliRunner().invoke(app, ["job", "run", str(recipe), "--engine", "inline"])
    if done.exit_code == 0:
        return changed(load_file(folder / "out.safetensors"))
    assert "in the syntax of RE2" in done.stderr
    return None


def by_exclusion(service: str, folder: Path, pattern: str) -> set[str] | None:
    kept = by_recipe(service, folder, pattern, "exclude")
    return None if kept is None else set(NAMES) - kept


def by_posted_job(service: str, folder: Path, pattern: str) -> set[str] | None:
    save_file(TENSORS, folder / "in.safetensors")
    recipe = {"input": str(folder / "in.safetensors"), "output": str(folder / "out.safetensors")}
    with httpx.Client(base_url=service, timeout=60) as client:
        answer = client.post("/v1/jobs", json={**recipe, "rules": [rule(pattern, "tensors")]})
        if answer.status_code != 202:
            assert "in the syntax of RE2" in answer.text
            return None
        end_s = time.monotonic() + JOB_S
        while not (job := client.get(f"/v1/jobs/{answer.json()['id']}").json())["ended"]:
            assert time.monotonic() < end_s, job
            time.sleep(0.05)
    assert job["state"] == "completed", job
    return changed(load_file(folder / "out.safetensors"))


def test_half_of_a_surrogate_pair_is_no_pattern() -> None:
    with pytest.raises(ValueError, match="it holds half of a surrogate pair"):
        compile_pattern("\ud800")


@pytest.mark.parametrize("pattern", SELECTED)
def test_python_s_own_patterns_would_select_others(pattern: str) -> None:
    assert in_python(pattern) != SELECTED[pattern]


@pytest.mark.parametrize("pattern", SELECTED)
@pytest.mark.parametrize(
    "select", [by_post, by_client, by_async_client, by_command, by_recipe, by_exclusion, by_posted_job]
)
def test_every_way_in_selects_the_same(
    service: str, jobs_root: Path, select: Callable[[str, Path, str], set[str] | None], pattern: str
) -> None:
    folder = jobs_root / f"{select.__name__}-{list(SELECTED).index(pattern)}"
    folder.mkdir()
    assert select(service, folder, pattern) == SELECTED[pattern]
