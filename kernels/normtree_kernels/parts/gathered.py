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
        room: arrays to gather in, slots by fibres; none where answers are added.

    Attributes:
        whole: the answer.
    """

    def __init__(self, question: Question, room: Sequence[Array] = ()) -> None:
        self._is_added = question.is_added
        self.whole: Answer = tuple(room)

    @classmethod
    def of_shape(cls, question: Question, slots: int, kept: Sequence[int]) -> "Gathered":
        """Gather in new arrays.

        Args:
            question: the question.
            slots: how many slots all parts of a fibre have together; see `normtree_kernels.parts.part.Part`.
            kept: shape of the axes that tell fibres apart.
        """
        shape = (slots if question.by_chunk else 1, *kept, *question.tail)
        return cls(question, () if question.is_added else [np.empty(shape, dtype) for dtype in question.dtypes])

    def put(self, slots: slice, fibres: Index, answer: Answer) -> None:
        """Take a part's answer.

        Args:
            slots: where its slots are among all; of a question that wants one slot, no matter where.
            fibres: where its fibres are among all.
            answer: what it answered; nothing, where it was not asked.
        """
        if self._is_added:
            self.add(answer)
            return
        for whole, part in zip(self.whole, answer, strict=bool(answer)):
            whole[(slots if len(whole) > 1 else slice(0, 1), *fibres)] = part

    def add(self, answer: Answer) -> None:
        """Take a part's answer where answers are added; nothing where it has none, or has put it in place itself."""
        if answer:
            self.whole = tuple(map(np.add, self.whole, answer)) if self.whole else answer
