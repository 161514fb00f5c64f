"""A processor of the plainest kind gives the bytes that this one does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Sweeps rows and columns of random, zero, tiny and huge elements, and prints the bytes of the norms and results.
SWEEPS = """
import numpy as np
from ml_dtypes import bfloat16
from normtree_kernels.sweeps import sweep
from normtree_kernels.norms.mixed_norm import NORMS

for dtype, orders in ((np.float32, "C"), (np.float16, "CF"), (bfloat16, "C")):
    y = np.random.default_rng(0).standard_t(2, (5, 200)).astype(dtype)
    y[:, :6] = 0.0, -0.0, 6e-8, -1e-5, 65504, -0.25
    for norm in NORMS.values():
        for order in orders:
            block = y.copy(order)
            v, x = sweep.up(norm, block, 1), np.empty_like(block)
            sweep.down(norm, block, 1, v, v * np.array([0.0, 1e-9, 0.1, 0.7, 1.0]), x)
            print(norm.name, y.dtype, order, v.tobytes().hex(), x.tobytes().hex())
"""


def swept(**environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", SWEEPS], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow  # a process of its own compiles half of the kernels
def test_a_processor_without_wide_registers_or_half_precision_gives_the_same_bytes(tmp_path: Path) -> None:
    plain = swept(NUMBA_CPU_NAME="generic", NUMBA_CACHE_DIR=str(tmp_path))
    assert plain.count("\n") == 12
    assert plain == swept()
