"""The code in the READMEs runs as it stands: Python here, the shell against the real service. Links lead somewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from safetensors.numpy import save_file

ROOT = Path(__file__).parents[2]
DOOR = Path("README.md")
RUN = (DOOR, Path("kernels/README.md"), Path("service/README.md"), Path("service/normtree/jobs/README.md"))
DEPLOY = tuple(Path(f"deploy/{name}.md") for name in ("README", "RUNBOOK", "SECURITY"))
PAGES = (*RUN, Path(".github/CONTRIBUTING.md"), *DEPLOY, Path("loadtests/README.md"))
DOOR_LINES = 150
DEFAULT_PLACE = "127.0.0.1:8000"
DEFAULT_URL = f"http://{DEFAULT_PLACE}"
RNG = np.random.default_rng(0)


def text_of(page: Path) -> str:
    return (ROOT / page).read_text("utf-8")


def found(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text_of(page), flags=re.DOTALL | re.MULTILINE)


def blocks(*languages: str) -> list[object]:
    """Every block in one of the languages, with its page."""
    every = [(page, code) for page in RUN for language in languages for code in found(page, language)]
    assert every, f"no README has an example in {languages}"
    return [pytest.param(page, code, id=f"{page.parent}-{number}") for number, (page, code) in enumerate(every)]


def anchors(page: Path) -> set[str]:
    """What a page's headings are reached by."""
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text_of(page), flags=re.DOTALL | re.MULTILINE), re.M
    )
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(("page", "code"), blocks("python"))
def test_python_examples_run(page: Path, code: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("page", "code"), blocks("python test=service", "python test=shared"))
def test_client_examples_run(page: Path, code: str, service: str, tmp_path: Path) -> None:
    script = code.replace(DEFAULT_PLACE, urlsplit(service).netloc)
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("page", "code"), blocks("bash"))
def test_shell_examples_run(page: Path, code: str, service: str, tmp_path: Path) -> None:
    """In a folder with a tensor, a checkpoint, and the page's recipe where it has one."""
    np.save(tmp_path / "w.npy", RNG.standard_normal((512, 384), dtype=np.float32))
    for recipe in found(page, "toml"):
        (tmp_path / "recipe.toml").write_text(recipe)
    (tmp_path / "model").mkdir()
    tensors = {
        f"layer.{name}.weight": RNG.standard_normal((64, 48), np.float32) for name in ("query", "value", "dense")
    }
    save_file(tensors, tmp_path / "model" / "model.safetensors")
    script = code.replace(DEFAULT_URL, service)
    path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    done = subprocess.run(
        ["bash", "-euc", script], cwd=tmp_path,
        env={"PATH": path, "HOME": str(tmp_path), "XDG_CACHE_HOME": os.environ["XDG_CACHE_HOME"]},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    if "-o out.npy" in code:
        assert np.load(tmp_path / "out.npy").shape == (512, 384)
        assert "x-normtree-timing" in done.stdout.lower()
    if "normtree bench --profile" in code:
        for part in ("read", "l1 packed", "what an engine adds", "thread", "4000×4000", "ratio"):
            assert part in done.stdout
    if "radius=-1" in code:
        assert "radius must be finite and >= 0, got -1.0" in done.stdout.replace("radius: must", "radius must")
    if "normtree job run" in code:
        assert (tmp_path / "model-sparse" / "model.safetensors").exists()


def test_the_door_is_short() -> None:
    assert len(text_of(DOOR).splitlines()) <= DOOR_LINES


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page.parent / path).resolve() if path else ROOT / page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.relative_to(ROOT)), link
