"""``normtree job``: what a person types and sees."""

import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import save_file

from normtree.engine.kernels import warm_kernels
from normtree.jobs.command import options, parse_bytes, show_plan
from normtree.jobs.command import run as run_and_show
from normtree.text.printable import printable

RULES = "[[rules]]\ntensors = '.*(up|down)\\.weight'\nsparsity = 0.5\n"


def run(*arguments: str | int | Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "normtree.cli", "job", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    """Commands that compile say so, and these are asked about other things."""
    warm_kernels()


@pytest.fixture
def recipe(checkpoint: Path, tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(f"input = '{checkpoint.name}'\noutput = 'out'\n{RULES}")
    return path


def test_plan_tells_all_and_writes_nothing(recipe: Path, checkpoint: Path, tmp_path: Path) -> None:
    done = run("plan", recipe, "--workers", 2)
    assert done.returncode == 0, done.stderr
    assert (
        "rules[0] '.*(up|down)\\\\.weight': l1,linf, sparsity 0.5, scope tensor: 6 tensors, 1,080,000 bytes"
        in done.stdout
    )
    assert "inline with 2 workers:" in done.stdout
    assert "MiB of 512 MiB allowed" in done.stdout
    assert sorted(tmp_path.iterdir()) == [checkpoint, recipe]


def test_run_projects_resumes_and_is_silent_off_a_terminal(recipe: Path, tmp_path: Path, loaded: Any) -> None:
    done = run("run", recipe, "--workers", 2, "--memory", "64MiB")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "layers.0.up.weight" in done.stdout
    assert "150/300" in done.stdout
    assert "2 workers on inline, 1 node; tasks run again: 0;" in done.stdout
    assert (loaded(tmp_path / "out")["layers.0.up.weight"] == 0).all(axis=1).sum() == 150
    again = run("run", recipe)
    assert again.returncode == 0
    assert "this job was completed before" in again.stdout


def test_of_many_tensors_the_first_are_shown_and_the_others_counted(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    tensors = {f"t{number:02}": np.eye(2 + number % 10) for number in range(45)}
    save_file(tensors, tmp_path / "in" / "model.safetensors")
    (tmp_path / "recipe.toml").write_text("input = 'in'\noutput = 'out'\n[[rules]]\ntensors = '.*'\nsparsity = 0.5\n")
    seen = io.StringIO()
    shown, bound = Console(file=seen, width=160), options(1, "64MiB", "inline", None)
    show_plan(shown, tmp_path / "recipe.toml", bound)
    assert "and 2 shapes more" in seen.getvalue()
    run_and_show(shown, Console(file=io.StringIO()), tmp_path / "recipe.toml", bound)
    assert "t39" in seen.getvalue()
    assert "t40" not in seen.getvalue()
    assert "and 5 more, in the report" in seen.getvalue()


def test_a_name_is_shown_as_it_is_and_steers_no_terminal(tmp_path: Path) -> None:
    name = "x[/b][red]\x1b]0;gone\x07\u202e.weight"
    (tmp_path / "in").mkdir()
    save_file({name: np.eye(4), "bias\x1b": np.ones(3)}, tmp_path / "in" / "model.safetensors")
    (tmp_path / "in" / "odd\x1b[2J.bin").write_bytes(b"0")
    (tmp_path / "recipe.toml").write_text("input = 'in'\noutput = 'out'\n[[rules]]\ntensors = '.*'\nsparsity = 0.5\n")
    seen = io.StringIO()
    shown = Console(file=seen, width=160, force_terminal=True, no_color=True)
    bound = options(1, "64MiB", "inline", None)
    show_plan(shown, tmp_path / "recipe.toml", bound)
    run_and_show(shown, Console(file=io.StringIO()), tmp_path / "recipe.toml", bound)
    text = re.sub(r"\x1b\[[0-9;]*m", "", seen.getvalue())  # the table's own letters
    assert printable(name) in text
    assert r"odd\x1b[2J.bin" in text
    assert not set("\x1b\x07\u202e") & set(text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--memory", "many"], "memory: wanted a size such as 512MiB or 2G, got 'many'"),
        (["--engine", "gpu"], "engine: wanted one of auto, inline, ray, got 'gpu'"),
        (["--engine", "inline", "--address", "auto"], "address: an inline job runs in this process"),
    ],
)
def test_a_wrong_option_is_told_in_a_line(recipe: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    done = run("run", recipe, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(f"normtree: {message}")
    assert not (tmp_path / "out").exists()


def test_a_wrong_recipe_is_told_with_its_line(recipe: Path) -> None:
    recipe.write_text(recipe.read_text() + "radios = 3\n")
    done = run("plan", recipe)
    assert done.returncode == 2
    assert done.stderr == f"normtree: {recipe}, line 6: rules[0].radios: unknown key: did you mean radius?\n"


@pytest.mark.parametrize(
    ("text", "nbytes"), [("1", 1), ("512MiB", 2**29), ("2G", 2 * 10**9), ("1.5 GiB", 3 * 2**29), ("10kb", 10**4)]
)
def test_sizes_are_read_as_people_write_them(text: str, nbytes: int) -> None:
    assert parse_bytes(text) == nbytes


def test_ray_is_taken_where_an_address_is_given(checkpoint: Path, make_recipe: Any, tmp_path: Path) -> None:
    from normtree.jobs.run import plan_job

    recipe = make_recipe(checkpoint, tmp_path / "out", "tensors = '.*weight'\nradius = 1")
    plan = plan_job(recipe, options(1, "64MiB", "auto", None))
    engines = [options(1, "64MiB", *given).engine_for(plan.checkpoint) for given in (("auto", None), ("auto", "auto"))]
    assert engines == ["inline", "ray"]


def test_where_ray_finds_no_place_for_its_files_the_remedy_is_told(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    deep = tmp_path / ("x" * 90)
    deep.mkdir()
    for folder, why in (("/proc/normtree", "No such file or directory"), (str(deep), "path length")):
        monkeypatch.setenv("RAY_TMPDIR", folder)
        done = run("run", recipe, "--engine", "ray")
        assert done.returncode == 2
        assert why in done.stderr
        assert "; set RAY_TMPDIR to a folder of this user's own, with a path of at most 26 characters" in done.stderr
