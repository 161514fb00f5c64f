"""The fixed shape of every sum: chunks of 1024 elements, 64 lanes a chunk.

Within a chunk, lane ``l`` adds the elements ``l, l + 64, l + 128, …`` in that order. Then lanes ``g, g + 8, g + 16, …``
are added in that order, for each of the eight groups ``g``, and then the groups. Partial norms of chunks are reduced
by the same rule again. The shape depends on a fibre's length only: not on strides, blocks, threads or vector width.
A missing element counts as zero, and adding zero changes no bit, so short chunks need no rule of their own.
"""

from normtree_kernels.compiled.jit import device
from normtree_kernels.dtypes import Float64Array

CHUNK = 1024
LANES = 64
GROUPS = 8


@device
def fold(lanes: Float64Array) -> float:
    """Add the 64 lanes in their fixed order; overwrites them."""
    for base in range(GROUPS, LANES, GROUPS):
        for group in range(GROUPS):
            lanes[group] += lanes[base + group]
    total = 0.0
    for group in range(GROUPS):
        total += lanes[group]
    return total


def chunk_count(length: int) -> int:
    """Number of chunks in a fibre of that many elements; at least one."""
    return max(1, -(-length // CHUNK))
