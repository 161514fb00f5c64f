"""The kernels that a job needs, which are loaded or compiled before its tasks."""

from collections.abc import Iterator

from normtree.engine.kernels import ACTIVE, CUT, DIFFERENCE, LINES, RANKS, Kernels
from normtree.jobs.plan.job_plan import JobPlan
from normtree.jobs.plan.pieces import TensorWork
from normtree_kernels.norms.l1 import L1


def kernels_of(plan: JobPlan) -> frozenset[Kernels]:
    """Name what a plan's tasks and roots run: leaves read the tensors' elements, all above them float64."""
    return frozenset(each for work in plan.works for each in (*_of_leaves(plan, work), *_of_roots(work)))


def _of_leaves(plan: JobPlan, work: TensorWork) -> Iterator[Kernels]:
    dtype, norm = work.layout.dtype, work.layout.norm.inner.norm
    cut = work.cut if plan.is_split(work) else work.cut.in_rows
    for lines in LINES:
        yield Kernels(norm.name, dtype, lines)
        if work.own:
            yield Kernels(L1.name, dtype, lines)
            yield Kernels(ACTIVE, dtype, lines)
    yield Kernels(DIFFERENCE, dtype)
    if cut.in_chunks and norm.searches:
        yield Kernels(CUT, dtype)
    if cut.ranks:
        yield Kernels(RANKS, dtype)


def _of_roots(work: TensorWork) -> Iterator[Kernels]:
    for level in work.layout.norm.levels[:-1]:
        yield Kernels(level.norm.name, "float64")
    if work.cut.in_chunks:  # norms of chunks are folded
        for lines in LINES:
            yield Kernels(work.layout.norm.inner.norm.of_parts.name, "float64", lines)
            if work.own:
                yield Kernels(L1.of_parts.name, "float64", lines)
