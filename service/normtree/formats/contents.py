"""What a body holds, whatever its format: tensors, one behind the other, and texts about them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

Prefix = bytes | bytearray  # the first bytes of a body, as many as there are by now


@dataclass(frozen=True)
class Entry:
    """One tensor of a body.

    Args:
        name: unique in its body; ``y`` where the format knows no names.
        dtype: element type: one of `normtree.formats.elements.NAMES`, or the format's own name for another.
        shape: lengths of the axes.
        nbytes: bytes of its elements, which follow those of the entry before.
        order: which axis varies fastest in the body, the last or the first.
        big_endian: whether its elements have their bytes the other way round.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    order: Literal["C", "F"] = "C"
    big_endian: bool = False


@dataclass(frozen=True)
class Contents:
    """What the header of a body says, checked.

    Args:
        entries: the tensors in the order of their bytes, with nothing between them.
        data_offset: bytes of the body before the first tensor.
        metadata: texts that the format carries.
    """

    entries: tuple[Entry, ...]
    data_offset: int
    metadata: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def data_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(entry.nbytes for entry in self.entries)

    def placed(self) -> Iterator[tuple[int, Entry]]:
        """Yield each tensor behind the byte where it begins, counted from the body's first."""
        start = self.data_offset
        for entry in self.entries:
            yield start, entry
            start += entry.nbytes
