"""Running every kernel once, so that no request waits for a compiler or for machine code to load."""

import ml_dtypes  # noqa: F401 - makes "bfloat16" a name that NumPy knows
import numpy as np

from normtree_kernels import parts, sweep
from normtree_kernels.dtypes import ACCEPTED
from normtree_kernels.norms import NORMS

_SIDE = 4


def warm_kernels() -> None:
    """Sweep tiny tensors of every dtype through every norm, as rows and as columns."""
    for dtype in ACCEPTED:
        y = np.ones((_SIDE, _SIDE), dtype)
        out = np.empty_like(y)
        for block, result in ((y, out), (y.T, out.T)):
            for norm in NORMS:
                v = sweep.up(norm, block, 1)
                sweep.down(norm, block, 1, v, v / 2, result)
            sweep.active(block, 1, np.ones(_SIDE))
        levels = np.zeros(_SIDE), np.zeros(_SIDE), np.ones(_SIDE)
        parts.excesses(y, levels)
        parts.shrink(y, levels, out)
    parts.Thresholds(np.ones(1), np.ones(1) / 2, np.ones((1, parts.SAMPLE)), 2 * parts.SAMPLE, np.dtype(np.float64))
