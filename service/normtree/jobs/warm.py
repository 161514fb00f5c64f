"""Loading the kernels that a job needs, so that no task waits for them."""

from itertools import product

import numpy as np

from normtree.jobs.plan import JobPlan
from normtree_kernels import sweep
from normtree_kernels.difference import difference
from normtree_kernels.dtypes import BFLOAT16

Kernels = frozenset[tuple[str, str]]
_SIDE = 4


def kernels_of(plan: JobPlan) -> Kernels:
    """Name the norms that a plan sweeps, each with its element type: leaves read the tensors', the others float64."""
    leaves = {(work.layout.norm.inner.norm, work.layout.dtype) for work in plan.works}
    upper = {(level.norm, "float64") for work in plan.works for level in work.layout.norm.levels[:-1]}
    return frozenset(leaves | upper)


def warm(kernels: Kernels) -> None:
    """Sweep tiny tensors, as rows and as columns."""
    for (norm, dtype), turned in product(sorted(kernels), (False, True)):
        y = np.ones((_SIDE, _SIDE), BFLOAT16 if dtype == "bfloat16" else dtype)
        x = np.empty_like(y)
        block, out = (y.T, x.T) if turned else (y, x)
        v = sweep.up(norm, block, 1)
        sweep.down(norm, block, 1, v, v / 2, out)
        difference(y, x)
