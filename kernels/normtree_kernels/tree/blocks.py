"""Cutting a tensor into blocks: along an axis that the innermost level keeps, or across its fibres."""

from dataclasses import dataclass
from itertools import pairwise
from math import prod
from types import EllipsisType

from normtree_kernels.compiled.lanes import CHUNK
from normtree_kernels.norms.mixed_norm import MixedNorm
from normtree_kernels.refusals import ValueRefused

LONG = 1 << 24  # elements of a fibre; longer ones are cut even for one worker, which may be told to stop


@dataclass(frozen=True)
class Block:
    """A part of a tensor: indices ``start`` to ``stop`` of one axis, all of the others; or a part of all fibres.

    Args:
        axis: axis of the tensor; None for the whole tensor, when no axis can be cut.
        start: first index, >= 0.
        stop: index after the last, > start.
        part: first element and the one after the last of the fibres, whose axes are taken as one in C order; None for
            whole fibres.
    """

    axis: int | None
    start: int
    stop: int
    part: tuple[int, int] | None = None

    def index(self, axes: tuple[int, ...]) -> tuple[slice | EllipsisType, ...]:
        """Index that cuts this block out of an array whose axes are those axes of the tensor, in that order.

        It ends in an ellipsis, without which an array of no axes would give a scalar, not a view.
        """
        cut = slice(self.start, self.stop)
        return (*(cut if axis == self.axis else slice(None) for axis in axes), ...)


def split(shape: tuple[int, ...], norm: MixedNorm, count: int) -> tuple[Block, ...]:
    """Cut a tensor into at most ``count`` blocks of nearly equal size that each hold whole fibres.

    The first kept axis in memory that is long enough is cut, for then blocks are far apart in memory; else the
    longest kept axis.

    Args:
        shape: shape of the tensor.
        norm: mixed norm bound to its axes.
        count: wanted number of blocks, >= 1.

    Raises:
        ValueError: ``count`` < 1.
    """
    if count < 1:
        raise ValueRefused("count", "at least one block", count)
    kept = sorted(norm.kept_axes)
    if not kept or prod(shape) == 0:
        return (Block(None, 0, 1),)
    axis = next((a for a in kept if shape[a] >= count), max(kept, key=lambda a: shape[a]))
    count = min(count, shape[axis])
    edges = [shape[axis] * i // count for i in range(count + 1)]
    return tuple(Block(axis, start, stop) for start, stop in pairwise(edges))


def cut(shape: tuple[int, ...], norm: MixedNorm, count: int, *, ranks: bool = False) -> tuple[Block, ...]:
    """Cut a tensor between its fibres where there are enough of them, else across them.

    Args:
        shape: shape of the tensor.
        norm: mixed norm bound to its axes.
        count: wanted number of blocks, >= 1.
        ranks: whether elements will be ranked, so that even one block is to answer in chunks.
    """
    whole = split(shape, norm, count)
    length = prod(shape[axis] for axis in norm.inner.axes)
    if ranks or length > LONG:
        return max(split_fibres(shape, norm, count), whole, key=len)
    return whole if len(whole) == count else max(whole, split_fibres(shape, norm, count), key=len)


def split_fibres(shape: tuple[int, ...], norm: MixedNorm, count: int) -> tuple[Block, ...]:
    """Cut the fibres of a tensor into at most ``count`` parts of nearly equal size.

    Parts end where the chunks of `normtree_kernels.compiled.lanes` do, so that sums keep their shape, and hold a whole
    chunk at least, or the whole fibre. Fibres scattered over memory, with axes of others between theirs, are left
    whole.

    Args:
        shape: shape of the tensor.
        norm: mixed norm bound to its axes.
        count: wanted number of blocks, >= 1.
    """
    axes = [axis for axis in norm.inner.axes if shape[axis] > 1]
    length = prod(shape[axis] for axis in axes)
    scattered = any(shape[axis] > 1 for axis in norm.kept_axes if axes and axes[0] < axis < axes[-1])
    parts = min(count, length // CHUNK)
    if prod(shape) == 0 or scattered:
        return (Block(None, 0, 1),)
    parts = max(1, parts)
    edges = [length // CHUNK * i // parts * CHUNK for i in range(parts)]
    return tuple(Block(None, 0, 1, part) for part in pairwise([*edges, length]))
