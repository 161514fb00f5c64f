"""Loading the kernels that a job needs, so that no task waits for them."""

from collections.abc import Iterator
from itertools import product

import numpy as np

from normtree.jobs.pieces import Work
from normtree.jobs.plan import JobPlan
from normtree_kernels import parts, ranks, sweep
from normtree_kernels.difference import difference
from normtree_kernels.dtypes import BFLOAT16, Array
from normtree_kernels.lanes import CHUNK

Kernels = frozenset[tuple[str, str]]
_SIDE = 4
_CUT, _ACTIVE, _RANKS = "cut fibres", "active", "ranks"


def kernels_of(plan: JobPlan) -> Kernels:
    """Name what a plan's tasks and roots run, each with its element type: leaves read the tensors', others float64."""
    leaves = {(kind, work.layout.dtype) for work in plan.works for kind in _kinds(plan, work)}
    upper = {(level.norm, "float64") for work in plan.works for level in work.layout.norm.levels[:-1]}
    folds = {(work.layout.norm.inner.norm, "float64") for work in plan.works if work.cut.is_across}
    return frozenset(leaves | upper | folds)


def _kinds(plan: JobPlan, work: Work) -> Iterator[str]:
    yield work.layout.norm.inner.norm
    if work.own:
        yield from ("l1", _ACTIVE)
    if plan.is_split(work) and work.cut.is_across and work.layout.norm.inner.norm == "l1":
        yield _CUT
    if plan.is_split(work) and work.ranks:
        yield _RANKS


def warm(kernels: Kernels) -> None:
    """Run each on tiny tensors, as rows and as columns."""
    for (kind, dtype), turned in product(sorted(kernels), (False, True)):
        y = np.ones((_SIDE, _SIDE), BFLOAT16 if dtype == "bfloat16" else dtype)
        if kind == _CUT:
            _warm_cut(y)
        elif kind == _ACTIVE:
            sweep.active(y.T if turned else y, 1, np.ones(_SIDE))
        elif kind == _RANKS:
            ranks.digits(y, 1, 0, 0)
            ranks.above(y, 1.0)
        else:
            _warm_sweeps(kind, y, turned=turned)


def _warm_sweeps(norm: str, y: Array, *, turned: bool) -> None:
    x = np.empty_like(y)
    block, out = (y.T, x.T) if turned else (y, x)
    v = sweep.up(norm, block, 1)
    sweep.down(norm, block, 1, v, v / 2, out)
    difference(y, x)


def _warm_cut(y: Array) -> None:
    fibre = np.ones((1, 2 * CHUNK), y.dtype)
    norm = parts.fold("l1", parts.chunk_norms("l1", fibre))
    found = parts.Thresholds(norm, norm / 2, np.ones((1, parts.SAMPLE)), 2 * CHUNK, y.dtype)
    levels = np.ones(1), np.zeros(1), found.found[2]
    parts.excesses(fibre, levels)
    parts.shrink(fibre, levels, np.empty_like(fibre))
