"""Norms of somebody's own, a module each: the registry's tests run over them, through every home."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

OWN = Path(__file__).parent / "own"
NAMES = sorted(path.stem for path in OWN.glob("*.py"))
TESTS = Path(__file__).parents[1]
# Tests that take each norm of the registry by name, and those that draw among all.
REGISTRY = (
    "kernels/parts/test_parts.py",
    "kernels/test_same_bits.py::test_blocks_swept_up_one_by_one_are_the_whole",
    "kernels/tree/test_pieces.py",
    "kernels/test_oracle.py",
    "kernels/test_invariants.py",
)
HOMES = "homes/test_one_table.py"
EACH_HOME = "not http"  # the service's home is the engine; it compiles for a minute, and has passed by hand
TIMEOUT_S = 280


def run(*tests: str, **environment: str) -> str:
    """Run tests in a process of their own, in which the norms are registered before any test is collected."""
    plugins = [argument for name in NAMES for argument in ("-p", name)]
    path = os.pathsep.join([str(OWN), *filter(None, sys.path)])
    asked = ["-q", "-p", "no:cacheprovider", *plugins, *tests]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *asked],
        cwd=TESTS,
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True, text=True, check=False, timeout=TIMEOUT_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_what_holds_for_the_registry_holds_for_them() -> None:
    assert " passed" in run(*REGISTRY, "-k", " or ".join([*NAMES, "equals_the_oracle"]))


@pytest.mark.slow
def test_they_go_through_every_home() -> None:
    told = run(HOMES, "-k", EACH_HOME, NORMTREE_TESTED_NORMS=",".join(NAMES))
    assert "4 passed" in told
