"""One tensor by every way in: the same bits come back."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.utils.shared_memory as shm
from safetensors.numpy import load, save

import normtree
import normtree_kernels as nk

Y = np.random.default_rng(3).standard_t(3, (700, 300)).astype(np.float32)
GOAL: dict[str, Any] = {"norm": "l1,linf", "axes": "1,0", "sparsity": 0.9}


def by_npy(base: str, _: Path) -> bytes:
    body = io.BytesIO()
    np.save(body, Y)
    headers = {"Content-Type": "application/x-npy"}
    answer = httpx.post(f"{base}/v1/project", params=GOAL, content=body.getvalue(), headers=headers, timeout=60)
    return np.load(io.BytesIO(answer.content)).tobytes()


def by_safetensors(base: str, _: Path) -> bytes:
    headers = {"Content-Type": "application/vnd.safetensors"}
    answer = httpx.post(f"{base}/v1/project", params=GOAL, content=save({"w": Y}), headers=headers, timeout=60)
    return load(answer.content)["w"].tobytes()


def by_client(base: str, _: Path) -> bytes:
    with normtree.Client(base) as client:
        return client.project(Y, "l1,linf", axes="1,0", sparsity=0.9, compact=True).x.tobytes()


def by_triton(base: str, _: Path) -> bytes:
    given = triton.InferInput("y", list(Y.shape), "FP32")
    given.set_data_from_numpy(Y)
    with triton.InferenceServerClient(urlsplit(base).netloc) as client:
        return client.infer("multilevel", [given], parameters=GOAL).as_numpy("x").tobytes()


def by_shared_memory(base: str, folder: Path) -> bytes:
    key = f"/tensor-{folder.name}"
    segment = shm.create_shared_memory_region("bits", key, 2 * Y.nbytes)
    given, wanted = triton.InferInput("y", list(Y.shape), "FP32"), triton.InferRequestedOutput("x")
    try:
        shm.set_shared_memory_region(segment, [Y])
        given.set_shared_memory("bits", Y.nbytes)
        wanted.set_shared_memory("bits", Y.nbytes, Y.nbytes)
        with triton.InferenceServerClient(urlsplit(base).netloc) as client:
            client.register_system_shared_memory("bits", key, 2 * Y.nbytes)
            client.infer("multilevel", [given], outputs=[wanted], parameters=GOAL)
            client.unregister_system_shared_memory("bits")
        return shm.get_contents_as_numpy(segment, Y.dtype, Y.shape, Y.nbytes).tobytes()
    finally:
        shm.destroy_shared_memory_region(segment)


def by_command_line(_: str, folder: Path) -> bytes:
    np.save(folder / "w.npy", Y)
    options = ["--norm", "l1,linf", "--axes", "1,0", "--sparsity", "0.9"]
    command = [sys.executable, "-m", "normtree.cli", "project", "w.npy", "out.npy", *options]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return np.load(folder / "out.npy").tobytes()


DOORS = (by_npy, by_safetensors, by_client, by_triton, by_shared_memory, by_command_line)


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
def test_same_bits(service: str, tmp_path: Path, door: Any) -> None:
    assert door(service, tmp_path) == nk.project(Y, "l1,linf", axes="1,0", sparsity=0.9).tobytes()


@pytest.mark.parametrize(
    ("door", "way"),
    [
        *((door, way) for door in (by_npy, by_safetensors, by_client) for way in ("rechunked", "gzip", "forked")),
        *((by_triton, way) for way in ("rechunked", "gzip")),  # in a forked child its own event loop stands still
    ],
)
def test_same_bits_by_other_ways(service: str, reach: Any, tmp_path: Path, door: Any, way: str) -> None:
    """Behind a proxy that answers by chunks or compresses, and asked by a forked child."""
    assert door(reach(service, way), tmp_path) == nk.project(Y, "l1,linf", axes="1,0", sparsity=0.9).tobytes()
