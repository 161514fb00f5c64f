"""The safetensors format: its header read from the first bytes of a stream, and written.

    header length       header                                                                data
    8 bytes, little     {"w": {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48]}}     ...

The rules, each with its own error:

1. The header begins with ``{`` and is strict JSON: UTF-8, no key given twice, no NaN, no half of a surrogate pair.
2. It is an object of tensors; ``__metadata__`` is an object of texts, or null.
3. A tensor has ``dtype``, and ``shape`` and ``data_offsets`` of non-negative integers. Other keys say nothing to us.
4. Its bytes are its elements' bits, whole; those of a type that cannot be projected pass through.
5. Sorted by offset, tensors begin at 0 and follow each other with no hole and no overlap.
"""

import json
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from normtree.errors import BodyTooLarge, InvalidTensor, MalformedBody
from normtree.http.bodies import strict_json
from normtree.http.bodies.contents import Contents, Entry, Prefix
from normtree.http.bodies.elements import BY_NAME, ELEMENTS
from normtree.jobs.header import BITS, what_else

HEADER_LIMIT_BYTES = 2**20
TENSORS_LIMIT = 4096
_LENGTH_BYTES = 8
_ALIGNMENT = 8
_METADATA = "__metadata__"
_KEYS = {"dtype", "shape", "data_offsets"}
_TEXT_SHOWN = 40
_NAMES = {element.safetensors: element.name for element in ELEMENTS}


def read_header(
    prefix: Prefix,
    *,
    elements_limit: int,
    header_limit_bytes: int = HEADER_LIMIT_BYTES,
    tensors_limit: int = TENSORS_LIMIT,
) -> Contents | None:
    """Read the header from the first bytes of a body.

    Args:
        prefix: the body's first bytes, as many as there are by now.
        elements_limit: largest number of elements of a tensor.
        header_limit_bytes: largest header; an answer's holds certificates too.
        tensors_limit: largest number of tensors; a compact answer has three for each.

    Returns:
        What the body holds; None where ``prefix`` is right so far but more bytes are needed.

    Raises:
        MalformedBody: it is no header of the format.
        BodyTooLarge: it is longer than we read, found before it is read, or has more tensors.
        InvalidTensor: a tensor has more elements than are taken.
    """
    offset = data_offset(prefix, header_limit_bytes)
    if offset is None or len(prefix) < offset:
        return None
    header = _parse(prefix[_LENGTH_BYTES:offset])
    metadata = _read_metadata(header.pop(_METADATA, None))
    if len(header) > tensors_limit:
        detail = f"safetensors header: at most {tensors_limit} tensors are accepted, got {len(header)}"
        raise BodyTooLarge(detail, pointer="body", limit=tensors_limit, got=len(header))
    placed = sorted((_read_entry(name, info, elements_limit) for name, info in header.items()), key=lambda p: p[:2])
    _check_offsets(placed)
    return Contents(tuple(entry for _, _, entry in placed), offset, metadata)


def data_offset(prefix: Prefix, limit_bytes: int = HEADER_LIMIT_BYTES) -> int | None:
    """Return how many bytes stand before the data, or None where more than ``prefix`` is needed to tell.

    Raises:
        MalformedBody: a header that does not begin with ``{``, or too short for it.
        BodyTooLarge: a header over the limit.
    """
    if len(prefix) < _LENGTH_BYTES:
        return None
    length = int.from_bytes(prefix[:_LENGTH_BYTES], "little")
    if length > limit_bytes:
        found = what_else(prefix[:_LENGTH_BYTES])
        what = f"a length of {length}" + (f": it seems to be {found}" if found else "")
        detail = f"safetensors header: at most {limit_bytes} bytes are read, got {what}"
        raise BodyTooLarge(detail, pointer="body", limit=limit_bytes, got=length)
    if length < len("{}"):
        raise _malformed("a length of at least 2 bytes is wanted", length, 2)
    if len(prefix) > _LENGTH_BYTES and prefix[_LENGTH_BYTES : _LENGTH_BYTES + 1] != b"{":
        raise _malformed("it must begin with {")
    return _LENGTH_BYTES + length


def encode_header(entries: tuple[Entry, ...], metadata: Mapping[str, str]) -> bytes:
    """Return the header of tensors that will follow each other in this order, padded to a multiple of 8 bytes.

    Args:
        entries: the tensors, C order and little-endian; a dtype is a name of ours or of the format.
        metadata: texts to carry; none where empty.
    """
    header: dict[str, object] = {_METADATA: dict(metadata)} if metadata else {}
    start = 0
    for entry in entries:
        code = BY_NAME[entry.dtype].safetensors if entry.dtype in BY_NAME else entry.dtype
        stop = start + entry.nbytes
        header[entry.name] = {"dtype": code, "shape": list(entry.shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def _parse(raw: Prefix) -> dict[str, Any]:
    """Parse the header's JSON by rule 1; it begins with ``{``, so it is an object."""
    header: dict[str, Any] = strict_json.parse(raw, "safetensors header")
    return header


def _read_metadata(found: object) -> dict[str, str]:
    """Check the texts by rule 2."""
    found = {} if found is None else found
    if not (isinstance(found, dict) and all(isinstance(value, str) for value in found.values())):
        raise _malformed(f"{_METADATA} must be an object of texts")
    return found


def _read_entry(name: str, info: object, elements_limit: int) -> tuple[int, int, Entry]:
    """Read one tensor by rules 3 and 4: its offsets and what it is."""
    where = f"tensor {_cut(name)}"
    if not isinstance(info, dict) or not info.keys() >= _KEYS:
        raise _malformed(f"{where}: dtype, shape and data_offsets are wanted")
    code = info["dtype"]
    if not isinstance(code, str) or code not in BITS:
        raise _malformed(f"{where}: dtype must be one of {', '.join(BITS)}", str(code)[:_TEXT_SHOWN], ", ".join(BITS))
    shape, offsets = (_read_integers(info[key], f"{where}: {key}") for key in ("shape", "data_offsets"))
    if len(offsets) != len(("begin", "end")) or offsets[0] > offsets[1]:
        raise _malformed(f"{where}: data_offsets must be a begin and an end not before it")
    bits = _count(shape, elements_limit, where) * BITS[code]
    if bits % 8:
        raise _malformed(f"{where}: its {code} elements do not fill whole bytes")
    if offsets[1] - offsets[0] != bits // 8:
        raise _malformed(f"{where}: {bits // 8} bytes are wanted by its shape", offsets[1] - offsets[0], bits // 8)
    return offsets[0], offsets[1], Entry(name, _NAMES.get(code, code), shape, bits // 8)


def _read_integers(found: object, where: str) -> tuple[int, ...]:
    if not (isinstance(found, list) and all(type(item) is int and 0 <= item < 2**63 for item in found)):
        raise _malformed(f"{where} must be a list of integers >= 0")
    return tuple(found)


def _count(shape: tuple[int, ...], limit: int, where: str) -> int:
    """Count the elements, never beyond the limit: neither slow for a thousand axes nor hidden by an empty one."""
    elements = 1
    for length in shape:
        elements *= max(length, 1)
        if elements > limit:
            shown = str(list(shape))[:_TEXT_SHOWN]
            detail = f"{where}: at most {limit} elements are accepted, got the shape {shown}"
            raise InvalidTensor(detail, pointer="shape", limit=limit, got=shown)
    return 0 if 0 in shape else elements


def _check_offsets(placed: list[tuple[int, int, Entry]]) -> None:
    """Check rule 5."""
    if placed and placed[0][0] != 0:
        raise _malformed(f"tensor {_cut(placed[0][2].name)}: the first must begin at 0", placed[0][0], 0)
    for (_, end, _), (begin, _, entry) in pairwise(placed):
        if begin != end:
            kind = "a hole before it" if begin > end else "it overlaps the one before"
            raise _malformed(f"tensor {_cut(entry.name)}: {kind}: it must begin at {end}", begin, end)


def _cut(name: str) -> str:
    return repr(name[:_TEXT_SHOWN])


def _malformed(what: str, got: int | str | None = None, limit: int | str | None = None) -> MalformedBody:
    detail = f"safetensors header: {what}" if got is None else f"safetensors header: {what}, got {got}"
    return MalformedBody(detail, pointer="body", limit=limit, got=got)
