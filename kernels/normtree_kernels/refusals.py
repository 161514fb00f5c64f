"""What is raised for an argument that cannot be: a ValueError or TypeError whose parts can be read one by one."""

from typing import Self


class Refusal(Exception):
    """Why an argument is refused: what it is called, what was wanted, and what was given.

    Never raised itself, but as one of its two subclasses. Its text is ``NAME: WHY``. Each survives pickling.

    Attributes:
        name: of the argument.
        wanted: what it may be, in words or as a bound.
        got: what it was: a number or a text, and of a tensor no more than the one element at fault.
        why: one sentence with both.
    """

    def __init__(self, name: str, wanted: int | float | str, got: int | float | str, why: str | None = None) -> None:
        """Make a refusal; ``why`` tells what was wanted and given, where those two words for it do not do."""
        self.name = name
        self.wanted = wanted
        self.got = got
        self.why = f"wanted {wanted}, got {got}" if why is None else why
        super().__init__(name, wanted, got, self.why)

    def about(self, name: str) -> Self:
        """Return the same refusal of an argument that is called something else."""
        return type(self)(name, self.wanted, self.got, self.why)

    def __str__(self) -> str:
        """The refusal in one line."""
        return f"{self.name}: {self.why}"


class ValueRefused(Refusal, ValueError):
    """An argument of the right type has a value that cannot be."""


class TypeRefused(Refusal, TypeError):
    """An argument is of a type that cannot be."""
