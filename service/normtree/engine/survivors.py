"""The groups that survive a projection: known from what the root wrote, and projected one beside the other.

A client that wants the survivors only is sent no zeros; so none are written, and nothing is searched for them.
"""

from dataclasses import dataclass, replace
from math import prod
from threading import get_native_id
from time import perf_counter_ns

import numpy as np
from ml_dtypes import finfo

from normtree.compact import short_shape
from normtree.engine.memory.stop import Stop
from normtree.engine.memory.tensor import Tensor
from normtree.engine.timing.schema import Span
from normtree_kernels.dtypes import Array, Int64Array
from normtree_kernels.norms.mixed_norm import MixedNorm
from normtree_kernels.sweeps.sweep import down

_PIECE_BYTES = 1 << 20  # what was gathered is read again from a cache, and of columns a run is no shorter than a line


class Survivors:
    """Which outermost groups survive, where a run is asked to write no others.

    Attributes:
        index: int64, ascending, counted in C order over the outermost axes: the groups whose values lie at the
            target's beginning, as a `normtree.compact.Compact` has them. None where radii do not tell, so that all of
            the projection is there: groups that are elements, fibres cut into parts, radii near the least number.
    """

    def __init__(self) -> None:
        """Know none yet."""
        self.index: Int64Array | None = None


@dataclass(frozen=True)
class Groups:
    """A part of the survivors, as a leaf takes it: the first of them and the one after the last."""

    start: int
    stop: int


def cut_groups(count: int, parts: int) -> list[Groups]:
    """Cut so many survivors into at most so many parts of nearly equal size; at least one."""
    parts = max(1, min(parts, count))
    return [Groups(count * i // parts, count * (i + 1) // parts) for i in range(parts)]


def find_survivors(norm: MixedNorm, norms: Array, radii: Array, length: int, dtype: str) -> Int64Array | None:
    """Tell which outermost groups a projection leaves; None where that takes a look at it.

    Args:
        norm: mixed norm bound to the tensor's axes.
        norms: float64, shape of the kept axes in the norm's order: the fibres' norms.
        radii: the same shape: the fibres' radii.
        length: elements in a fibre.
        dtype: of the elements.

    Returns:
        int64, ascending, counted in C order over the outermost axes.
    """
    if len(norm.levels) == 1 or not norm.levels[0].axes:
        return None
    # A fibre's largest result is no less than radius / length, but for rounding towards zero.
    certain = 4 * length * float(finfo(np.dtype(dtype)).smallest_subnormal)  # type: ignore[no-untyped-call]
    alive = (norms > 0.0) & (radii > 0.0)
    if np.any(alive & (radii < norms) & (radii < certain)):
        return None
    return _index(norm, alive)


def groups_down(
    stop: Stop, tensors: tuple[Tensor, Tensor], norm: MixedNorm, groups: Groups, balls: tuple[Tensor, ...]
) -> Span:
    """Project a part of the surviving groups, and write them where they belong among the survivors.

    Raises:
        Stopped: nobody wants it any more.
    """
    start_ns = perf_counter_ns()
    source, target = tensors
    outer, kept = norm.levels[0].axes, len(norm.kept_axes) - len(norm.levels[0].axes) + 1
    norms, radii = (ball.array() for ball in balls)
    index = _index(norm, (norms > 0.0) & (radii > 0.0))
    y = source.array()
    x = _among_survivors(target, norm, y.shape, len(index))
    by_group = (prod(y.shape[axis] for axis in outer), *norms.shape[len(outer) :])
    norms, radii = norms.reshape(by_group), radii.reshape(by_group)
    nbytes, step = 0, max(1, _PIECE_BYTES * by_group[0] // max(1, y.nbytes))
    for first in range(groups.start, groups.stop, step):
        stop.check()
        chosen = index[first : min(first + step, groups.stop)]
        out = x[first : first + len(chosen)]
        down(norm.inner.norm, _take(y, norm, chosen), kept, norms[chosen], radii[chosen], out)
        nbytes += 2 * out.nbytes
    return Span("down", len(norm.levels) - 1, start_ns, perf_counter_ns(), nbytes, get_native_id())


def _index(norm: MixedNorm, alive: Array) -> Int64Array:
    """Return the groups of which some fibre is alive."""
    groups = prod(alive.shape[: len(norm.levels[0].axes)])
    if alive.size == 0:
        return np.zeros(0, np.int64)
    return np.flatnonzero(alive.reshape(groups, -1).any(axis=1))


def _take(y: Array, norm: MixedNorm, chosen: Int64Array) -> Array:
    """Copy groups, axes in the norm's order, the outermost ones as one."""
    outer = norm.levels[0].axes
    if len(outer) > 1:
        taken: Array = y.transpose(norm.order)[np.unravel_index(chosen, [y.shape[axis] for axis in outer])]
        return taken
    return y.take(chosen, outer[0], mode="clip").transpose(norm.order)  # none is out of range: "raise" would buffer


def _among_survivors(target: Tensor, norm: MixedNorm, shape: tuple[int, ...], count: int) -> Array:
    """View the survivors' place at a target's beginning, axes in the norm's order, the outermost ones as one."""
    outer = norm.levels[0].axes
    short, place = short_shape(shape, outer, count)
    x = replace(target, shape=short).array(writable=True)
    rest = [axis for axis in range(len(shape)) if axis not in outer]
    where = {axis: i if i < place else i + 1 for i, axis in enumerate(rest)}
    return x.transpose(place, *(where[axis] for axis in norm.order if axis not in outer))
