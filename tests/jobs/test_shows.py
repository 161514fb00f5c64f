"""What jobs promise of memory: little, whatever the checkpoint's size and however its rules cut it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

MIB = 1 << 20
ROWS, COLUMNS = 4096, 2048
BOUND_MIB = 16
BESIDE_MIB = 24  # what threads, readers and the interpreter take that are no buffers, as seen less than 10
RULES = """
[[rules]]
tensors = "rows"
sparsity = 0.5
[[rules]]
tensors = "columns"
norm = "l1,l2"
axes = "1,0"
sparsity = 0.5
[[rules]]
tensors = "exact"
axes = "1,0"
relative_radius = 0.5
exact = true
[[rules]]
tensors = "vector"
norm = "l1"
sparsity = 0.5
"""

MEASURED = """
import resource, sys
from pathlib import Path
from normtree.jobs.recipe import read_recipe
from normtree.jobs.run import JobOptions, run_job
idle = []
def watch(progress):
    idle.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
options = JobOptions(workers=2, memory_bytes=int(sys.argv[2]) << 20, engine="inline")
run_job(read_recipe(Path(sys.argv[1])), options, watch)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - idle[0])
"""


@pytest.mark.slow
def test_memory_is_bounded_whatever_the_size(tmp_path: Path) -> None:
    shapes = dict.fromkeys(("rows", "columns", "exact"), (ROWS, COLUMNS)) | {"vector": (ROWS * COLUMNS,)}
    nbytes = 4 * ROWS * COLUMNS
    entries = {
        name: {"dtype": "F32", "shape": shape, "data_offsets": [i * nbytes, (i + 1) * nbytes]}
        for i, (name, shape) in enumerate(shapes.items())
    }
    header = json.dumps(entries).encode()
    (tmp_path / "in").mkdir()
    with (tmp_path / "in" / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + len(shapes) * nbytes)  # a sparse file: zeros that take no room
        for i in range(len(shapes)):
            file.seek(8 + len(header) + i * nbytes)
            file.write(np.random.default_rng(i).standard_normal(MIB, np.float32).tobytes())
    (tmp_path / "recipe.toml").write_text(f"input = 'in'\noutput = 'out'\n{RULES}")
    command = [sys.executable, "-c", MEASURED, str(tmp_path / "recipe.toml"), str(BOUND_MIB)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) / 1024 < BOUND_MIB + BESIDE_MIB  # for tensors of 32 MiB each, twice that in one piece
