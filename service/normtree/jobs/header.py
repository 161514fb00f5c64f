"""The header of a safetensors file: what its tensors are and where their bytes lie, checked before it is believed."""

import json
from dataclasses import dataclass
from math import prod
from typing import Any, NoReturn

from normtree.errors import InvalidCheckpoint

LENGTH_BYTES = 8
LIMIT_BYTES = 100_000_000  # the format's own
_METADATA = "__metadata__"

# Those that can be projected, by NumPy's names; tensors of all others are copied.
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_ITEM_BYTES = {
    **{"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2},
    **{"I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1},
}


@dataclass(frozen=True)
class Entry:
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
        raise InvalidCheckpoint(f"{where}: no safetensors file, or truncated: a header of {length} bytes in {size}")
    return LENGTH_BYTES + length


def parse_header(raw: bytes, size: int, where: str) -> tuple[Entry, ...]:
    """Read the tensors of a file, in the order of their bytes.

    Args:
        raw: the file's first bytes, as many as `header_bytes` says.
        size: of the whole file.
        where: the file, for the errors.

    Raises:
        InvalidCheckpoint: the header breaks the format's rules, or the file is shorter or longer than it says.
    """
    header = _parse(raw[LENGTH_BYTES:], where)
    texts = header.pop(_METADATA, {})
    if not (isinstance(texts, dict) and all(isinstance(text, str) for text in texts.values())):
        raise InvalidCheckpoint(f"{where}: {_METADATA} must be an object of texts")
    entries = sorted((_entry(name, info, len(raw), where) for name, info in header.items()), key=lambda e: e.stop)
    entries.sort(key=lambda entry: entry.start)
    _check_order(entries, len(raw), size, where)
    return tuple(entries)


def _parse(raw: bytes, where: str) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(pairs)) != len(pairs):
            _refuse(where, "a key is given twice")
        return found

    try:
        header = json.loads(raw.decode(), object_pairs_hook=once)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InvalidCheckpoint(f"{where}: its header is not JSON: {error}") from None
    if not isinstance(header, dict):
        _refuse(where, "it must be an object")
    return header


def _entry(name: str, info: object, data: int, where: str) -> Entry:
    if not isinstance(info, dict) or info.keys() != {"dtype", "shape", "data_offsets"}:
        _refuse(where, f"tensor {name!r}: exactly dtype, shape and data_offsets are wanted")
    code, shape, offsets = info["dtype"], info["shape"], info["data_offsets"]
    numbers = [*shape, *offsets] if isinstance(shape, list) and isinstance(offsets, list) else [-1]
    if not all(type(number) is int and number >= 0 for number in numbers) or len(offsets) != len(("from", "to")):
        _refuse(where, f"tensor {name!r}: its shape and its two data_offsets must be integers >= 0")
    begin, end = offsets
    wanted = prod(shape) * _ITEM_BYTES.get(code, 0)
    if end < begin or (code in _ITEM_BYTES and end - begin != wanted):
        _refuse(where, f"tensor {name!r}: {wanted} bytes are wanted by its shape, got {end - begin}")
    return Entry(name, str(code), tuple(shape), data + begin, data + end)


def _check_order(entries: list[Entry], data: int, size: int, where: str) -> None:
    ends = [data, *(entry.stop for entry in entries)]
    for end, entry in zip(ends, entries, strict=False):
        if entry.start != end:
            _refuse(where, f"tensor {entry.name!r}: its bytes must begin at {end - data}, got {entry.start - data}")
    if ends[-1] > size:
        raise InvalidCheckpoint(f"{where}: truncated: its tensors end at byte {ends[-1]}, the file at {size}")
    if ends[-1] < size:
        raise InvalidCheckpoint(f"{where}: {size - ends[-1]} bytes too many after its tensors")


def _refuse(where: str, what: str) -> NoReturn:
    raise InvalidCheckpoint(f"{where}: its header is wrong: {what}")
