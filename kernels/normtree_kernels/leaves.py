"""The leaves of one process: blocks of a tensor swept on threads."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import TypeVar

import numpy as np

from normtree_kernels import sweep
from normtree_kernels.blocks import Block, split
from normtree_kernels.dtypes import Array, Float64Array
from normtree_kernels.norms import MixedNorm

T = TypeVar("T")
R = TypeVar("R")


def aggregate(y: Array, norm: MixedNorm, threads: int = 1) -> Float64Array:
    """Up-sweep the leaves: V_1, in the shape of the kept axes in the norm's order."""
    v = np.empty([y.shape[axis] for axis in norm.kept_axes])

    def leaf(block: Block) -> None:
        part = in_order(y, norm, block)
        v[block.index(norm.kept_axes)] = sweep.up(norm.inner.norm, part, len(norm.kept_axes))

    run(leaf, split(y.shape, norm, threads), threads)
    return v


def project_leaves(y: Array, norm: MixedNorm, v: Float64Array, radii: Float64Array, out: Array, threads: int) -> None:
    """Down-sweep the leaves, given the norms and radii of all fibres in the shape that `aggregate` returns."""

    def leaf(block: Block) -> None:
        here = block.index(norm.kept_axes)
        source, target = in_order(y, norm, block), in_order(out, norm, block)
        sweep.down(norm.inner.norm, source, len(norm.kept_axes), v[here], radii[here], target)

    run(leaf, split(y.shape, norm, threads), threads)


def in_order(array: Array, norm: MixedNorm, block: Block) -> Array:
    """View a block with its axes in the norm's order, kept ones first."""
    return array.transpose(norm.order)[block.index(norm.order)]


def run(function: Callable[[T], R], items: Iterable[T], threads: int) -> list[R]:
    """Apply a function to each item on that many threads; results in the items' order.

    One of the threads is the caller's. One that only waited would leave its core to a thread that it has just woken,
    and which the scheduler, for phases of milliseconds, then runs beside another one on that core.
    """
    if threads == 1:
        return [function(item) for item in items]
    first, *rest = items
    others = [_pool(threads - 1).submit(function, item) for item in rest]
    try:
        return [function(first), *(other.result() for other in others)]
    finally:
        wait(others)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="normtree-leaf")


os.register_at_fork(after_in_child=_pool.cache_clear)  # the threads stay with the parent
