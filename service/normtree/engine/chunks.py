"""Chunks: blocks cut so fine that work can follow a tensor that is still on its way in, or already on its way out."""

from collections.abc import Iterable
from math import prod

import numpy as np

from normtree.engine.tensor import Tensor
from normtree_kernels.blocks import Block

_CHUNK_BYTES = 1 << 24


def cut_chunks(tensor: Tensor, blocks: Iterable[Block]) -> list[Block]:
    """Cut blocks that are whole stretches of memory into shorter ones, in the order of memory; leave others whole.

    Args:
        tensor: where they are.
        blocks: of the tensor.
    """
    outermost = _outermost(tensor)
    chunks: list[Block] = []
    for block in blocks:
        if block.axis is None or block.axis != outermost:
            chunks.append(block)
            continue
        step = max(1, _CHUNK_BYTES * tensor.shape[block.axis] // max(tensor.nbytes, 1))
        edges = range(block.start, block.stop, step)
        chunks += [Block(block.axis, at, min(at + step, block.stop)) for at in edges]
    return sorted(chunks, key=lambda chunk: extent(tensor, chunk))


def extent(tensor: Tensor, block: Block) -> tuple[int, int]:
    """Where in a tensor's bytes a block begins and ends; between them there may be bytes of others."""
    lengths = list(tensor.shape)
    if tensor.nbytes == 0:
        return 0, 0
    start = 0
    if block.axis is not None:
        lengths[block.axis] = block.stop - block.start
        start = block.start * _step(tensor, block.axis)
    span = sum((length - 1) * _step(tensor, axis) for axis, length in enumerate(lengths)) + 1
    itemsize = np.dtype(tensor.dtype).itemsize
    return start * itemsize, (start + span) * itemsize


def _step(tensor: Tensor, axis: int) -> int:
    """Elements from one index of an axis to the next."""
    return prod(tensor.shape[axis + 1 :] if tensor.order == "C" else tensor.shape[:axis])


def _outermost(tensor: Tensor) -> int | None:
    """The axis that varies slowest in memory, of those that vary."""
    axes = [axis for axis, length in enumerate(tensor.shape) if length > 1]
    if not axes:
        return None
    return axes[0] if tensor.order == "C" else axes[-1]
