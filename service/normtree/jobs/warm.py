"""The kernels that a job needs, which are loaded or compiled before its tasks."""

from collections.abc import Iterator

from normtree.engine.warm import ACTIVE, CUT, DIFFERENCE, LINES, RANKS, Kernels
from normtree.jobs.pieces import Work
from normtree.jobs.plan import JobPlan


def kernels_of(plan: JobPlan) -> frozenset[Kernels]:
    """Name what a plan's tasks and roots run: leaves read the tensors' elements, all above them float64."""
    return frozenset(each for work in plan.works for each in (*_of_leaves(plan, work), *_of_roots(work)))


def _of_leaves(plan: JobPlan, work: Work) -> Iterator[Kernels]:
    dtype, norm = work.layout.dtype, work.layout.norm.inner.norm
    for lines in LINES:
        yield Kernels(norm, dtype, lines)
        if work.own:
            yield Kernels("l1", dtype, lines)
            yield Kernels(ACTIVE, dtype, lines)
    yield Kernels(DIFFERENCE, dtype)
    if plan.is_split(work) and work.cut.is_across and norm == "l1":
        yield Kernels(CUT, dtype)
    if plan.is_split(work) and work.ranks:
        yield Kernels(RANKS, dtype)


def _of_roots(work: Work) -> Iterator[Kernels]:
    for level in work.layout.norm.levels[:-1]:
        yield Kernels(level.norm, "float64")
    if work.cut.is_across:  # norms of chunks are folded
        for lines in LINES:
            yield Kernels(work.layout.norm.inner.norm, "float64", lines)
