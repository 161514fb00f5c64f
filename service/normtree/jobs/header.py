"""The header of a safetensors file: what its tensors are and where their bytes lie, checked before it is believed."""

from dataclasses import dataclass
from typing import Any, NoReturn

from normtree import strict_json
from normtree.errors import InvalidCheckpoint

LENGTH_BYTES = 8
LIMIT_BYTES = 100_000_000  # the format's own
_METADATA = "__metadata__"

# Those that can be projected, by NumPy's names; tensors of all others are copied.
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# Every type of the format by the bits of an element.
BITS = {
    **{"F64": 64, "F32": 32, "F16": 16, "BF16": 16},
    **{"I64": 64, "U64": 64, "C64": 64, "I32": 32, "U32": 32, "I16": 16, "U16": 16, "I8": 8, "U8": 8, "BOOL": 8},
    **{"F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8},
    **{"F6_E2M3": 6, "F6_E3M2": 6, "F4": 4},
}
_OTHERS = {
    b"version ": "a pointer of Git LFS, and not the file: `git lfs pull` fetches it",
    b"<": "a page of a website, and not the file, as a refused download leaves it: download it again",
    b"PK": "a PyTorch file or another archive, and not safetensors: convert it",
    b"\x80": "a pickle, and not safetensors: convert it",
    b"\x93NUMPY": "a .npy, and not safetensors",
}
_KEYS = {"dtype", "shape", "data_offsets"}
_MOST_BITS = 2**66


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
        found = what_else(prefix) or f"no safetensors file, or truncated: a header of {length} bytes in {size}"
        raise InvalidCheckpoint(f"{where}: {found}")
    return LENGTH_BYTES + length


def what_else(prefix: bytes | bytearray) -> str | None:
    """Say what begins so and is often found in a safetensors file's place; None where nobody knows."""
    for start, found in _OTHERS.items():
        if bytes(prefix).lstrip().startswith(start):
            return found
    return None


def parse_header(raw: bytes, size: int, where: str) -> tuple[Entry, ...]:
    """Read the tensors of a file, in the order of their bytes.

    It takes what the safetensors package takes: no texts or null for them, and keys of a tensor that nobody knows. A
    type that a later version may have is taken too, for its tensors are only copied.

    Args:
        raw: the file's first bytes, as many as `header_bytes` says.
        size: of the whole file.
        where: the file, for the errors.

    Raises:
        InvalidCheckpoint: the header breaks the format's rules, or the file is shorter or longer than it says.
    """
    header = _parse(raw[LENGTH_BYTES:], where)
    texts = header.pop(_METADATA, None)
    if texts is not None and not (isinstance(texts, dict) and all(isinstance(text, str) for text in texts.values())):
        raise InvalidCheckpoint(f"{where}: {_METADATA} must be an object of texts")
    entries = sorted((_entry(name, info, len(raw), where) for name, info in header.items()), key=lambda e: e.stop)
    entries.sort(key=lambda entry: entry.start)
    _check_order(entries, len(raw), size, where)
    return tuple(entries)


def _parse(raw: bytes, where: str) -> dict[str, Any]:
    try:
        header = strict_json.parse(raw)
    except ValueError as error:
        raise InvalidCheckpoint(f"{where}: its header is wrong: {error}") from None
    if not isinstance(header, dict):
        _refuse(where, "it must be an object")
    return header


def _entry(name: str, info: object, data: int, where: str) -> Entry:
    if not isinstance(info, dict) or not info.keys() >= _KEYS:
        _refuse(where, f"tensor {name!r}: dtype, shape and data_offsets are wanted")
    code, shape, offsets = info["dtype"], info["shape"], info["data_offsets"]
    numbers = [*shape, *offsets] if isinstance(shape, list) and isinstance(offsets, list) else [-1]
    if not all(type(number) is int and number >= 0 for number in numbers) or len(offsets) != len(("from", "to")):
        _refuse(where, f"tensor {name!r}: its shape and its two data_offsets must be integers >= 0")
    if not isinstance(code, str):
        _refuse(where, f"tensor {name!r}: its dtype must be a text")
    begin, end = offsets
    bits = _count(shape) * BITS.get(code, 8)
    if bits > _MOST_BITS:
        _refuse(where, f"tensor {name!r}: its shape is larger than any file")
    if bits % 8:
        _refuse(where, f"tensor {name!r}: its {code} elements do not fill whole bytes")
    if end < begin or (code in BITS and end - begin != bits // 8):
        _refuse(where, f"tensor {name!r}: {bits // 8} bytes are wanted by its shape, got {end - begin}")
    return Entry(name, code, tuple(shape), data + begin, data + end)


def _count(shape: list[int]) -> int:
    """Count the elements, no further than any file goes: a shape of a million axes is a stranger's too."""
    elements = int(0 not in shape)
    for length in shape:
        elements *= length
        if elements > _MOST_BITS:
            break
    return elements


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
