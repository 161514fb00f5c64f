"""The home of tensors in files: panels that tasks read, ask and project, and answers that come in with the tasks."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from normtree.jobs.plan.cut import Cut, Panel
from normtree_kernels.dtypes import Array
from normtree_kernels.parts.gathered import Gathered
from normtree_kernels.parts.part import Part
from normtree_kernels.parts.questions import Answer, Question


@dataclass(frozen=True)
class HeldPanels:
    """A panel that is in memory.

    Args:
        cut: which cuts the tensor.
        panel: where the panel is.
        elements: its bytes, contiguous.
    """

    cut: Cut
    panel: Panel
    elements: Array

    @cached_property
    def part(self) -> Part:
        """The part of the tensor that it is."""
        layout, (_, length, width) = self.cut.layout, self.panel.sides
        return Part(layout.fibres(self.elements, length, width), layout.kept, layout.fibre, self.cut.in_chunks)

    def answer(self, question: Question, box: Panel) -> Answer:
        """Answer a question that is about the fibres in a box."""
        here = self.panel.within(box)
        return question.with_values([values[here] for values in question.values]).of(self.part)


class PanelAnswers:
    """What the panels of a tensor answer to a question, while it comes in.

    Args:
        cut: which cuts the tensor.
        question: the question.
    """

    def __init__(self, cut: Cut, question: Question) -> None:
        """Begin with none."""
        self._cut, self._question, self._left = cut, question, cut.count

    def take(self, first: int, answers: Sequence[Answer]) -> bool:
        """Take what panels from number ``first`` on answered, and tell whether all have."""
        for panel, answer in zip(self._cut.panels(first, first + len(answers)), answers, strict=True):
            self._gathered.put(self._cut.slots_of(panel), panel.fibres, answer)
        self._left -= len(answers)
        return not self._left

    @property
    def whole(self) -> Answer:
        """The whole tensor's answer, when all have."""
        return self._gathered.whole

    @cached_property
    def _gathered(self) -> Gathered:  # made with the first answer: many tensors wait, and take no memory until then
        return Gathered.of_shape(self._question, self._cut.slots, self._cut.layout.v_shape)
