"""The README's code runs as it stands: Python here, the shell's lines against the real service."""

import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

README = (Path(__file__).parents[2] / "README.md").read_text()
DEFAULT_PLACE = "127.0.0.1:8000"
DEFAULT_URL = f"http://{DEFAULT_PLACE}"


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
    assert found, f"the README has no {language} example"
    return found


@pytest.mark.parametrize("code", blocks("python"))
def test_python_examples_run(code: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("code", blocks("python test=service") + blocks("python test=shared"))
def test_client_examples_run(code: str, service: str, tmp_path: Path) -> None:
    script = code.replace(DEFAULT_PLACE, urlsplit(service).netloc)
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("code", blocks("bash"))
def test_shell_examples_run(code: str, service: str, tmp_path: Path) -> None:
    np.save(tmp_path / "w.npy", np.random.default_rng(0).standard_normal((512, 384), dtype=np.float32))
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
