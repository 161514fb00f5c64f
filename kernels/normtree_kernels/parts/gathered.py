"""Answers of parts that become one of the whole tensor."""

from collections.abc import Sequence
from types import EllipsisType

import numpy as np

from normtree_kernels.dtypes import Array
from normtree_kernels.parts.questions import Answer, Question

Index = tuple[slice | EllipsisType, ...]


class Gathered:
    """The answer to a question, while parts of it come in.

    Args:
        question: the question.
        slots: how many slots all parts of a fibre have together; see `normtree_kernels.parts.part.Part`.
        kept: shape of the axes that tell fibres apart.
        room: arrays to gather in, of the shapes that `shapes` tells; default: new ones.

    Attributes:
        whole: the answer.
    """

    def __init__(
        self, question: Question, slots: int, kept: Sequence[int], room: Sequence[Array] | None = None
    ) -> None:
        self._is_added = question.is_added
        if question.is_added:
            self.whole: Answer = ()
        elif room is not None:
            self.whole = tuple(room)
        else:
            shape = shape_of(question, slots, kept)
            self.whole = tuple(np.empty(shape, dtype) for dtype in question.dtypes)

    def put(self, slots: slice, fibres: Index, answer: Answer) -> None:
        """Take a part's answer.

        Args:
            slots: where its slots are among all; of a question that wants one slot, no matter where.
            fibres: where its fibres are among all.
            answer: what it answered; nothing, where it was not asked.
        """
        if self._is_added:
            self.whole = tuple(map(np.add, self.whole, answer)) if self.whole and answer else self.whole or answer
            return
        for whole, part in zip(self.whole, answer, strict=bool(answer)):
            whole[(slots if len(whole) > 1 else slice(0, 1), *fibres)] = part


def shape_of(question: Question, slots: int, kept: Sequence[int]) -> tuple[int, ...]:
    """The shape of the arrays of a whole answer."""
    return (slots if question.by_chunk else 1, *kept, *question.tail)
