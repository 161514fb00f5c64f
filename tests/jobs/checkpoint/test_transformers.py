"""What jobs write loads where it is meant to be used: in transformers and sentence-transformers."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normtree_kernels as nk
from normtree.jobs.run import JobOptions, run_job

os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"

INLINE = JobOptions(workers=2, engine="inline")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # theirs are not ours to mend


@pytest.fixture(scope="module")
def transformers() -> Any:
    pytest.importorskip("torch", reason="torch is not installed")
    return pytest.importorskip("transformers", reason="transformers is not installed")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_shards_and_index_load_with_transformers(
    transformers: Any, tmp_path: Path, make_recipe: Any, dtype: str
) -> None:
    import torch

    size = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = transformers.BertConfig(vocab_size=1000, max_position_embeddings=64, **size)
    torch.manual_seed(0)
    model = transformers.BertModel(config).to(getattr(torch, dtype))
    model.save_pretrained(tmp_path / "in", max_shard_size="200KB")
    assert len(list((tmp_path / "in").glob("*.safetensors"))) > 2
    assert (tmp_path / "in" / "model.safetensors.index.json").exists()
    rows, columns = r".*(query|key|value)\.weight", r".*output\.dense\.weight"
    rules = [f"tensors = '{rows}'\nsparsity = 0.5", f"tensors = '{columns}'\naxes = '1,0'\nsparsity = 0.25"]
    run_job(make_recipe(tmp_path / "in", tmp_path / "out", *rules), INLINE)
    loaded, info = transformers.BertModel.from_pretrained(
        tmp_path / "out", dtype=getattr(torch, dtype), output_loading_info=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    after = loaded.state_dict()
    for name, before in model.state_dict().items():
        y, x = (each.float().numpy() for each in (before, after[name]))
        if name.endswith(("query.weight", "key.weight", "value.weight")):
            assert (x == 0).all(axis=1).sum() >= 32  # of bfloat16 some tie
        elif name.endswith("output.dense.weight"):
            assert (x == 0).all(axis=0).sum() >= y.shape[1] // 4
        else:
            assert x.tobytes() == y.tobytes(), name
        if dtype == "float32" and name.endswith("query.weight"):
            assert x.tobytes() == nk.project(y, "l1,linf", sparsity=0.5).tobytes()
    assert torch.isfinite(loaded(torch.arange(10)[None]).last_hidden_state).all()


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.3])
def test_minilm_loads_with_sentence_transformers(
    transformers: Any, minilm: Path, tmp_path: Path, make_recipe: Any, loaded: Any, sparsity: float
) -> None:
    sentences = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    matrices = "tensors = '.*(query|key|value|dense|_embeddings)\\.weight'"
    run_job(make_recipe(minilm, tmp_path / "out", f"{matrices}\nsparsity = {sparsity}"), INLINE)
    texts = ["A cat sits on the mat.", "A kitten is on a rug.", "The stock market fell."]
    before, after = (
        sentences.SentenceTransformer(str(folder), device="cpu").encode(texts) for folder in (minilm, tmp_path / "out")
    )
    assert before.shape == after.shape == (3, 384)
    assert np.isfinite(after).all()  # how much a model that is not trained on still means is no matter of loading
    assert (before.tobytes() == after.tobytes()) == (sparsity == 0.0)
    weights = sentences.SentenceTransformer(str(tmp_path / "out"), device="cpu")[0].auto_model.state_dict()
    for name, x in loaded(tmp_path / "out").items():
        if name in weights:
            assert weights[name].numpy().tobytes() == x.tobytes(), name
    assert sum(name in weights for name in loaded(tmp_path / "out")) >= len(weights) - 1  # the pooler may be left out
