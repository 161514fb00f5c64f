"""The home of tensors in this process: parts of an array, asked and projected on threads."""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import TypeVar

from normtree_kernels.compiled.lanes import chunk_count
from normtree_kernels.dtypes import Array, Float64Array
from normtree_kernels.norms.mixed_norm import MixedNorm
from normtree_kernels.parts.gathered import Gathered
from normtree_kernels.parts.part import fold
from normtree_kernels.parts.questions import Answer, Norms, Question
from normtree_kernels.tree.blocks import cut
from normtree_kernels.tree.goal import Aim
from normtree_kernels.tree.pieces import Piece, answers, as_piece
from normtree_kernels.tree.projection import ProjectionProblem, ranks_elements
from normtree_kernels.vector_norm import Balls

T = TypeVar("T")
R = TypeVar("R")


class Held:
    """A tensor, and how it is cut.

    Args:
        tensor: of any strides; not empty. Not changed.
        norm: mixed norm bound to its axes.
        threads: to use at once.
        ranks: whether its elements will be ranked.
        pieces: of it, where they are known.
    """

    def __init__(
        self,
        tensor: Array,
        norm: MixedNorm,
        threads: int = 1,
        *,
        ranks: bool = False,
        pieces: Sequence[Piece] | None = None,
    ) -> None:
        self._tensor, self._norm, self._threads = tensor, norm, threads
        self._ordered = tensor.transpose(norm.order)
        if pieces is None:
            pieces = [as_piece(tensor.shape, norm, block) for block in cut(tensor.shape, norm, threads, ranks=ranks)]
        self._pieces = pieces

    @classmethod
    def of(cls, tensor: Array, norm: MixedNorm, aim: Aim, threads: int) -> "Held":
        """Hold a tensor for a projection."""
        return cls(tensor, norm, threads, ranks=ranks_elements(norm, aim))

    def problem(self, aim: Aim, *, own: bool = False) -> ProjectionProblem:
        """Say what is to be done with it; see `normtree_kernels.tree.projection.ProjectionProblem`."""
        piece, dtype = self._pieces[0], self._tensor.dtype.newbyteorder("=")
        return ProjectionProblem(self._norm, piece.whole, dtype, aim, own=own, in_chunks=piece.elements is not None)

    def ask(self, question: Question) -> Answer:
        """Put a question to all parts."""
        only = self._pieces[0]
        if len(self._pieces) == 1:
            return question.of(only.part(self._ordered))
        slots = chunk_count(only.whole) if only.elements else 1
        gathered = Gathered.of_shape(question, slots, self._ordered.shape[: only.kept])

        def ask(piece: Piece) -> list[tuple[Piece, Answer, int]]:
            return list(answers(question, self._ordered, [piece], question.values))

        for found in run(ask, self._pieces, self._threads):
            for piece, answer, _ in found:
                gathered.put(piece.slots, piece.fibres, answer)
        return gathered.whole

    def norms(self) -> Float64Array:
        """The fibres' norms, in the shape of the kept axes in the norm's order."""
        norm = self._norm.inner.norm
        (slots,) = self.ask(Norms(norm))
        return fold(norm, slots)

    def project(self, balls: Balls, out: Array) -> None:
        """Project all parts to ``out``, of the tensor's shape and type."""
        target = out.transpose(self._norm.order)
        if len(self._pieces) == 1:
            self._pieces[0].project(self._norm, self._ordered, balls, target)
            return

        def down(piece: Piece) -> None:
            here = tuple([values[piece.fibres] for values in balls])
            piece.project(self._norm, self._ordered, here, target)

        run(down, self._pieces, self._threads)


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
