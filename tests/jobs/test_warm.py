"""Kernels of a job: all that its tasks and roots run are named, so that they are there before the first task."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from normtree.engine.kernels import warm_kernels

# A process in which no kernel is loaded: it prints how many are when the plan's are, and how many more after the job.
RUN = """
import gc, sys
from pathlib import Path
from numba.core.dispatcher import Dispatcher
from normtree.engine.kernels import prepare
from normtree.jobs.recipe import read_recipe
from normtree.jobs.run import JobOptions, plan_job, run_job
from normtree.jobs.tasks.job_kernels import kernels_of

def loaded():
    kernels = [each for each in gc.get_objects() if isinstance(each, Dispatcher)]
    return sum(sum(k.stats.cache_hits.values()) + sum(k.stats.cache_misses.values()) for k in kernels)

recipe, options = read_recipe(Path(sys.argv[1])), JobOptions(2, 40 << 20, "inline")
prepare(kernels_of(plan_job(recipe, options)))
before = loaded()
run_job(recipe, options)
print(before, loaded() - before)
"""
WHOLE, CUT = (40, 30), (2, 2_000_000)  # the second in tasks of parts of its fibres


@pytest.mark.parametrize(
    ("shape", "dtype", "rule"),
    [
        (WHOLE, np.float32, "sparsity = 0.5\naxes = '1,0'\nscope = 'global'"),
        (WHOLE, np.float64, "norm = 'l1,linf'\nradius = 3.0\nexact = true"),
        (CUT, np.float32, "norm = 'l1,l1'\nradius = 3.0"),
        (CUT, np.float32, "norm = 'l1'\nsparsity = 0.5"),
    ],
)
def test_a_plan_names_the_kernels_that_a_job_runs(
    shape: tuple[int, ...], dtype: Any, rule: str, tmp_path: Path
) -> None:
    warm_kernels()
    (tmp_path / "in").mkdir()
    tensors = {"a.weight": np.random.default_rng(0).standard_normal(shape).astype(dtype)}
    save_file(tensors, tmp_path / "in" / "model.safetensors")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f"input = 'in'\noutput = 'out'\n[[rules]]\ntensors = '.*'\n{rule}\n")
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-c", RUN, recipe],
        env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    before, more = map(int, done.stdout.split())
    assert before > 0
    assert more == 0
