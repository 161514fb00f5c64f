"""Largest magnitudes, of chunks of lanes.py."""

from normtree_kernels.compiled.elements import as_element, larger, magnitude, widen
from normtree_kernels.compiled.jit import device
from normtree_kernels.dtypes import Array


@device
def chunk_norm(x: Array) -> float:
    """Largest magnitude of contiguous elements, NaN where there is one."""
    largest = magnitude(x[0])
    for i in range(x.size):
        largest = larger(largest, magnitude(x[i]))
    return widen(as_element(largest, x[0]))
