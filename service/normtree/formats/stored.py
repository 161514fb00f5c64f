"""Tensors stored in a safetensors file: what they are and where their bytes lie, checked before it is believed."""

from dataclasses import dataclass

from normtree.errors import InvalidCheckpoint, NormtreeError
from normtree.formats.contents import Contents
from normtree.formats.elements import code_of
from normtree.formats.safetensors import LENGTH_BYTES, parse_header, what_else

LIMIT_BYTES = 100_000_000  # the format's own
_ELEMENTS_LIMIT = 2**62  # more than any file holds


@dataclass(frozen=True)
class Stored:
    """One tensor of a file.

    Args:
        name: its name.
        code: its element type, by the format's name.
        shape: lengths of its axes.
        start: where its bytes begin, from the start of the file.
        stop: where they end.
    """

    name: str
    code: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        """Its size, in bytes."""
        return self.stop - self.start


def header_bytes(prefix: bytes, size: int, where: str) -> int:
    """Return the bytes before the data, from a file's first eight.

    Raises:
        InvalidCheckpoint: the file is too short for what it says.
    """
    if len(prefix) < LENGTH_BYTES:
        raise InvalidCheckpoint(f"{where}: wanted a safetensors file, got {size} bytes")
    length = int.from_bytes(prefix, "little")
    if length > min(LIMIT_BYTES, size - LENGTH_BYTES):
        found = what_else(prefix) or f"no safetensors file, or truncated: a header of {length} bytes in {size}"
        raise InvalidCheckpoint(f"{where}: {found}")
    return LENGTH_BYTES + length


def read_contents(raw: bytes, size: int, where: str) -> Contents:
    """Read what a file holds, whatever it be: any number of tensors, and types that a later version may have.

    Args:
        raw: the file's first bytes, as many as `header_bytes` says.
        size: of the whole file.
        where: the file, for the errors.

    Raises:
        InvalidCheckpoint: the header breaks the format's rules, or the file is shorter or longer than it says.
    """
    try:
        contents = parse_header(raw[LENGTH_BYTES:], elements_limit=_ELEMENTS_LIMIT, tensors_limit=None, new_types=True)
    except NormtreeError as error:
        raise InvalidCheckpoint(f"{where}: {error.detail}") from None
    end = contents.data_offset + contents.data_bytes
    if end > size:
        raise InvalidCheckpoint(f"{where}: truncated: its tensors end at byte {end}, the file at {size}")
    if end < size:
        raise InvalidCheckpoint(f"{where}: {size - end} bytes too many after its tensors")
    return contents


def read_stored(raw: bytes, size: int, where: str) -> tuple[Stored, ...]:
    """Read the tensors of a file, in the order of their bytes; see `read_contents`."""
    contents = read_contents(raw, size, where)
    return tuple(
        Stored(entry.name, code_of(entry.dtype), entry.shape, start, start + entry.nbytes)
        for start, entry in contents.placed()
    )
