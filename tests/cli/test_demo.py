"""What the first run starts, and how it ends."""

import io
from pathlib import Path
from typing import Any

import httpx
import ml_dtypes
import numpy as np
import pytest
from rich.console import Console

from normtree.client import Client
from normtree.commands.demo import choose_tensors, serving, show
from normtree.files.tensor_file import TensorFile, write_file
from normtree.processes.starting import free_port, wait_until_ready


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is not excepted goes to a proxy that is not there."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name)


def test_the_service_starts_behind_a_proxy_and_among_files_with_libraries_names(
    elsewhere: None, decoys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(decoys)
    monkeypatch.setenv("NORMTREE_INLINE_ONLY", "1")
    monkeypatch.setenv("NORMTREE_ARENA_BYTES", str(2**24))
    with serving(free_port()) as (url, process), httpx.Client(base_url=url, trust_env=False) as client:
        wait_until_ready(client, process)
    assert process.returncode == 0


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_weights_of_any_type_that_can_be_projected(elsewhere: None, service: str, tmp_path: Path, dtype: Any) -> None:
    y = np.random.default_rng(0).standard_normal((60, 40)).astype(dtype)
    write_file(tmp_path / "w.safetensors", TensorFile({"a": y[:50], "b": y[0], "c": np.arange(4000).reshape(80, 50)}))
    console = Console(file=io.StringIO(), width=200)
    with Client(service) as client:
        show(console, client, choose_tensors(tmp_path / "w.safetensors", None))
    told = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"a  50×40 {np.dtype(dtype).name}" in told
    assert "l1,linf: equals the oracle" in told


def test_weights_without_a_matrix(tmp_path: Path) -> None:
    write_file(tmp_path / "w.safetensors", TensorFile({"a": np.arange(12).reshape(3, 4)}))
    with pytest.raises(ValueError, match="no matrix to project, of float64, float32, float16, bfloat16"):
        choose_tensors(tmp_path / "w.safetensors", None)
