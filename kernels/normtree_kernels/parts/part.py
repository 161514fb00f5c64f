"""A part of a tensor that somebody holds: it answers questions, and projects itself when its balls are found."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np

from normtree_kernels.compiled.lanes import CHUNK
from normtree_kernels.dtypes import Array, Float64Array
from normtree_kernels.sweeps import sweep
from normtree_kernels.vector_norm import Balls, Norm


@dataclass(frozen=True)
class Part:
    """Whole fibres of a tensor, or a part of each.

    What a part says of its fibres are arrays of slots by fibres. Of whole fibres there is one slot. Of fibres in
    chunks there is one for each chunk of `normtree_kernels.compiled.lanes`: what is summed over a part, chunk by chunk,
    is what the kernels for whole fibres sum, and `fold` of all parts' slots gives their bits.

    Args:
        fibres: the elements; the first ``kept`` axes tell the fibres apart. Not changed.
        kept: number of those axes.
        whole: elements in a whole fibre.
        in_chunks: whether it answers chunk by chunk; then it begins and ends where chunks do. Of a norm that can be
            cut anywhere a part may hold any elements, and answer as if it were whole.
    """

    fibres: Array
    kept: int
    whole: int
    in_chunks: bool = False

    @cached_property
    def rows(self) -> Array:
        """The fibres along one axis, in C order; a copy where no single stride walks them."""
        return self.fibres.reshape((*self.fibres.shape[: self.kept], -1))

    def norms(self, norm: Norm) -> Float64Array:
        """The norms of its fibres, or of their chunks: slots by fibres."""
        if not self.in_chunks:
            return sweep.up(norm, self.fibres, self.kept, self.whole)[np.newaxis]
        return np.concatenate([sweep.up(norm, each, each.ndim - 1, self.whole) for each in self.chunks()])

    def chunks(self) -> Iterator[Array]:
        """Its whole chunks, and then the rest, if any: arrays of chunks by fibres by elements."""
        rows = self.rows
        count = rows.shape[-1] // CHUNK
        if count:
            chunked = rows[..., : count * CHUNK].reshape(*rows.shape[:-1], count, CHUNK)
            yield chunked.transpose(self.kept, *range(self.kept), self.kept + 1)
        if rows.shape[-1] % CHUNK:
            yield rows[..., count * CHUNK :][np.newaxis]

    def elements(self) -> Array:
        """All of its elements in one row, in any order; a copy where they are not neighbours."""
        row = self.fibres.ravel(order="K")
        return np.ascontiguousarray(row, row.dtype.newbyteorder("="))

    def project(self, norm: Norm, balls: Balls, out: Array) -> None:
        """Project its fibres.

        Args:
            norm: the innermost level's.
            balls: of its fibres, from `normtree_kernels.tree.projection.project`.
            out: of the shape and type of ``fibres``; overwritten.
        """
        norm = norm if self.whole > 1 else norm.of_one
        if not (self.in_chunks and norm.searches):
            v, u = balls
            sweep.down(norm, self.fibres, self.kept, v, u, out, self.whole)
            return
        shape = (*out.shape[: self.kept], prod(out.shape[self.kept :]))
        try:
            result = out.reshape(shape, copy=False)
        except ValueError:  # no single stride walks the fibres of the result
            result = np.empty(shape, out.dtype)
        norm.project_chunks(self.rows, balls, result)
        if not np.may_share_memory(result, out):
            out[...] = result.reshape(out.shape)


def fold(norm: Norm, slots: Float64Array) -> Float64Array:
    """The norms of whole fibres, from all slots."""
    if len(slots) == 1:
        whole: Float64Array = slots[0, ...]  # a view, of no axes too
        return whole
    return sweep.up(norm.of_parts, slots.transpose(*range(1, slots.ndim), 0), slots.ndim - 1)
