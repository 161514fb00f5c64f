"""The real MiniLM checkpoint, every matrix projected: it loads, and at no sparsity it is itself."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from normtree.jobs.run import JobOptions, run_job

INLINE = JobOptions(workers=2, engine="inline")
MATRICES = "tensors = '.*(query|key|value|dense|_embeddings)\\.weight'"


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.3])
def test_every_matrix_is_projected_and_the_folder_loads(
    minilm: Path, tmp_path: Path, make_recipe: Any, files: Any, loaded: Any, sparsity: float
) -> None:
    outcome = run_job(make_recipe(minilm, tmp_path / "out", f"{MATRICES}\nsparsity = {sparsity}"), INLINE)
    assert len(outcome.facts) == 40
    before, after = loaded(minilm), loaded(tmp_path / "out")
    assert before.keys() == after.keys()
    for facts in outcome.facts:
        x = after[facts.name]
        zero = int((x == 0).all(axis=1).sum())
        assert zero == facts.zero_groups[0] >= sparsity * x.shape[0]
        gone = before[facts.name].astype(np.float64) - x
        assert float(np.linalg.norm(gone)) == pytest.approx(facts.distance, rel=1e-12)
    if sparsity == 0.0:
        assert files(tmp_path / "out") == files(minilm)
    else:
        assert files(tmp_path / "out").keys() == files(minilm).keys()
