"""The inline engine: the tree on threads of this process."""

from time import perf_counter_ns

from normtree.engine.plan import Plan
from normtree.engine.run import Run
from normtree.engine.tensor import Tensor
from normtree.engine.tree import leaf_down, leaf_up, root
from normtree_kernels.leaves import run as run_on_threads


def run_inline(source: Tensor, target: Tensor, plan: Plan) -> Run:
    """Project a tensor on ``plan.workers`` threads; returns when all of them are done.

    Args:
        source: the tensor; not changed.
        target: where its projection goes; another segment.
        plan: from `normtree.engine.plan.make_plan`.
    """
    start_ns = perf_counter_ns()
    threads = len(plan.blocks)
    ups = run_on_threads(lambda block: leaf_up(source, plan.norm, block), plan.blocks, threads)
    top, *leaves = root(plan, source, *ups)
    downs = run_on_threads(
        lambda pair: leaf_down(source, target, plan.norm, *pair),
        list(zip(plan.blocks, leaves, strict=True)),
        threads,
    )
    return Run(top, tuple(span for _, span in ups), tuple(downs), start_ns, perf_counter_ns(), 0, 0)
