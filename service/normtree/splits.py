"""Axes seen as several, so that a part of one can be a level of its own: heads, of an axis of heads times width."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod

from normtree_kernels.refusals import ValueRefused

WANTED = "axes and the sizes they begin with, such as 0:12 or 0:3:12,1:8"
_KEPT = 256
_MOST_PARTS = 32
_TEXT_SHOWN = 80
_PART = re.compile(r"\s*(\d{1,4})((?::\d{1,18})+)\s*", re.ASCII)


@dataclass(frozen=True)
class Split:
    """Which axes of a tensor are seen as several.

    ``0:12`` sees axis 0, of a length n, as two axes of 12 and n / 12; ``1:3:12`` axis 1 as three, of 3, 12 and what is
    left. All of them are in row-major order, so that the elements stay where they are, and axes after them count on.

    Args:
        parts: for each axis, counted in the tensor as it is, the sizes that it begins with, each >= 1.
    """

    parts: tuple[tuple[int, tuple[int, ...]], ...] = ()

    @property
    def added(self) -> int:
        """How many axes more there are."""
        return sum(len(sizes) for _, sizes in self.parts)

    def reaches(self, rank: int) -> bool:
        """Tell whether a tensor of so many axes has all that are split."""
        return all(axis < rank for axis, _ in self.parts)

    def seen(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape that a tensor is seen in.

        Raises:
            ValueError: it has no such axis, or a length that the sizes do not divide.
        """
        found: list[int] = []
        for axis, length, sizes in self._axes(shape):
            left, rest = divmod(length, prod(sizes))
            if rest:
                sides = " × ".join(map(str, sizes))
                why = f"{sides} must divide axis {axis}, got a length of {length} in {tuple(shape)}"
                raise ValueRefused("split", f"a multiple of {sides}", length, why)
            found += [*sizes, left] if sizes else [length]
        return tuple(found)

    def owners(self, rank: int) -> list[int]:
        """Return for each axis that is seen the tensor's own that it is a part of.

        Args:
            rank: the number of the tensor's own axes.
        """
        return [axis for axis, _, sizes in self._axes([1] * rank) for _ in range(len(sizes) + 1)]

    def own(self, seen: Sequence[int]) -> tuple[int, ...]:
        """Return a tensor's own shape, from the one that it is seen in."""
        rank = len(seen) - self.added
        found = [1] * rank
        for owner, length in zip(self.owners(rank), seen, strict=True):
            found[owner] *= length
        return tuple(found)

    def __str__(self) -> str:
        """The split as text, as `parse_split` reads it."""
        return ",".join(":".join(map(str, (axis, *sizes))) for axis, sizes in self.parts)

    def _axes(self, shape: Sequence[int]) -> Iterator[tuple[int, int, tuple[int, ...]]]:
        """Go through a tensor's own axes: which it is, how long, and the sizes that it is to begin with."""
        sizes = dict(self.parts)
        beyond = [axis for axis in sizes if axis >= len(shape)]
        if beyond:
            why = f"axis {beyond[0]} is out of range for a tensor of {len(shape)} axes"
            raise ValueRefused("split", f"axes < {len(shape)}", beyond[0], why)
        for axis, length in enumerate(shape):
            yield axis, length, sizes.get(axis, ())


NO_SPLIT = Split()


@lru_cache(_KEPT)
def parse_split(text: str | None) -> Split:
    """Read a split.

    Args:
        text: such as ``0:12,1:3:8``; None or nothing for none.

    Raises:
        ValueError: it is none, names an axis twice, or has a size of 0.
    """
    if text is None or not text.strip():
        return NO_SPLIT
    parts = text.split(",")
    found = [_PART.fullmatch(part) for part in parts[:_MOST_PARTS]]
    if None in found or len(parts) > _MOST_PARTS:
        raise _refused(WANTED, text[:_TEXT_SHOWN])
    split = tuple((int(one[1]), tuple(map(int, one[2][1:].split(":")))) for one in found if one)
    axes = [axis for axis, _ in split]
    if len(set(axes)) < len(axes):
        raise _refused("each axis once", text)
    if any(size == 0 for _, sizes in split for size in sizes):
        raise _refused("sizes of 1 or more", text)
    return Split(split)


def _refused(wanted: str, text: str) -> ValueRefused:
    return ValueRefused("split", wanted, text, f"wanted {wanted}, got {text!r}")
