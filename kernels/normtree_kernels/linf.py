"""The l-infinity ball: largest magnitude, clipping.

Projection of v on {x : max |x| <= rho}: x = sign(v) min(|v|, rho). All of it is done on bits, in the elements' own
width: as integers magnitudes order like the values, their maximum vectorises and keeps a NaN.
"""

from normtree_kernels.dtypes import Array
from normtree_kernels.elements import as_element, larger, magnitude, narrow, no_bound, widen
from normtree_kernels.jit import device


@device
def chunk_norm(x: Array) -> float:
    """Largest magnitude of contiguous elements, NaN where there is one."""
    largest = magnitude(x[0])
    for i in range(x.size):
        largest = larger(largest, magnitude(x[i]))
    return widen(as_element(largest, x[0]))


@device
def add_row(row: Array, largest: Array) -> None:
    """Raise the columns' largest magnitudes, as bits, by a row of elements."""
    for j in range(largest.size):
        largest[j] = larger(largest[j], magnitude(row[j]))


@device
def add_four_rows(a: Array, b: Array, c: Array, d: Array, largest: Array) -> None:
    """Raise the columns' largest magnitudes by four rows in one pass."""
    for j in range(largest.size):
        here = larger(larger(magnitude(a[j]), magnitude(b[j])), larger(magnitude(c[j]), magnitude(d[j])))
        largest[j] = larger(largest[j], here)


@device
def bound(norm: float, rho: float, like: float) -> int:
    """The bits at which a fibre of that norm is clipped; of no bound where it lies in the ball."""
    bits: int = no_bound(like) if norm <= rho else magnitude(narrow(rho, like))
    return bits
