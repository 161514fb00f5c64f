"""A /dev/shm of 64 MB, as containers have: what is taken, what refused and how that is told; and the command line."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import normtree_kernels as nk

MIB = 2**20
ROOT = Path(__file__).parents[3]
NPY = {"Content-Type": "application/x-npy"}
HANG_S = 280
TESTS = ("tests/http/test_service.py", "tests/jobs/board/test_routes.py")
SOME = "oracle or finite or truncated or job_is_taken or events_tell"


def npy(array: Any) -> bytes:
    body = io.BytesIO()
    np.save(body, array)
    return body.getvalue()


def noise(nbytes: int) -> Any:
    return np.random.default_rng(0).standard_normal((nbytes // 4000, 1000)).astype(np.float32)


def test_command_line_projects_what_is_larger(small_shared_memory: tuple[str, ...], tmp_path: Path) -> None:
    y = noise(80 * MIB)
    source, target = tmp_path / "y.npy", tmp_path / "x.npy"
    np.save(source, y)
    run = [*small_shared_memory, sys.executable, "-c", "from normtree.cli import app; app()"]
    subprocess.run([*run, "project", source, target, "--radius", "9"], check=True, capture_output=True, timeout=HANG_S)
    np.testing.assert_array_equal(np.load(target), nk.project(y, "l1,linf", 9.0))
    subprocess.run([*run, "bench"], check=True, capture_output=True, timeout=HANG_S)


@pytest.mark.parametrize("engine", ["inline", "ray"])
def test_service_tells_what_it_can_take(
    serve: Any, small_shared_memory: tuple[str, ...], tmp_path: Path, engine: str
) -> None:
    log = tmp_path / "log.txt"
    given = {"inline_only": True, "arena_bytes": 128 * MIB} if engine == "inline" else {"arena_bytes": 512 * MIB}
    with serve(log, within=small_shared_memory, workers=2, **given) as (base, _):
        limit = httpx.get(f"{base}/v1/info", timeout=HANG_S).json()["limits"]["body_limit_bytes"]
        assert limit == (64 * MIB if engine == "inline" else 16 * MIB)
        y = noise(limit - 4096)
        answer = httpx.post(f"{base}/v1/project?radius=9&engine={engine}", content=npy(y), headers=NPY, timeout=HANG_S)
        np.testing.assert_array_equal(np.load(io.BytesIO(answer.content)), nk.project(y, "l1,linf", 9.0))
        refused = httpx.post(f"{base}/v1/project?radius=9", content=bytes(limit + 1), headers=NPY, timeout=HANG_S)
    problem = refused.json()
    assert (refused.status_code, problem["code"], problem["limit"]) == (413, "body-too-large", limit)
    assert "NORMTREE_ARENA_BYTES" in problem["detail"]
    assert ("shm_size" in problem["detail"]) == (engine == "ray")
    warnings = [line["message"] for line in map(json.loads, log.read_text().splitlines()) if line["level"] == "warning"]
    assert any(f"at most {limit} bytes" in message for message in warnings)
    assert any("shm_size" in message for message in warnings) == (engine == "ray")


def test_a_service_of_threads_starts_where_nothing_can_be_written(
    serve: Any, small_shared_memory: tuple[str, ...], tmp_path: Path
) -> None:
    within = tuple(part.replace("size=64m", "ro") for part in small_shared_memory)
    assert within != small_shared_memory
    with serve(tmp_path / "log.txt", within=within, workers=2, inline_only=True) as (base, _):
        y = noise(20 * MIB)
        answer = httpx.post(f"{base}/v1/project?radius=9", content=npy(y), headers=NPY, timeout=HANG_S)
        np.testing.assert_array_equal(np.load(io.BytesIO(answer.content)), nk.project(y, "l1,linf", 9.0))


@pytest.mark.slow
def test_other_tests_hold_there_too(small_shared_memory: tuple[str, ...], tmp_path: Path) -> None:
    command = [
        *small_shared_memory, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
        "-k", SOME, f"--basetemp={tmp_path / 'base'}", *TESTS,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=HANG_S)
    assert done.returncode == 0, done.stdout[-4000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed
    assert int(passed[1]) > 30
