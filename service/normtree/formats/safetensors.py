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

from normtree.errors import BodyTooLarge, MalformedBody
from normtree.formats.contents import Contents, Entry, Prefix
from normtree.formats.elements import BY_CODE, code_of, dtype_of
from normtree.formats.shapes import count_elements
from normtree.formats.strict_json import parse_body

HEADER_LIMIT_BYTES = 2**20
TENSORS_LIMIT = 4096
LENGTH_BYTES = 8
_ALIGNMENT = 8
_METADATA = "__metadata__"
_KEYS = {"dtype", "shape", "data_offsets"}
_TEXT_SHOWN = 40
_CODES = ", ".join(BY_CODE)
_OTHERS = {
    b"version ": "a pointer of Git LFS, and not the file: `git lfs pull` fetches it",
    b"<": "a page of a website, and not the file, as a refused download leaves it: download it again",
    b"PK": "a PyTorch file or another archive, and not safetensors: convert it",
    b"\x80": "a pickle, and not safetensors: convert it",
    b"\x93NUMPY": "a .npy, and not safetensors",
}


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
    return parse_header(prefix[LENGTH_BYTES:offset], elements_limit=elements_limit, tensors_limit=tensors_limit)


def parse_header(
    text: Prefix, *, elements_limit: int, tensors_limit: int | None = TENSORS_LIMIT, new_types: bool = False
) -> Contents:
    """Read a header that has come whole.

    Args:
        text: the header, without its length.
        elements_limit: largest number of elements of a tensor.
        tensors_limit: largest number of tensors; None for any.
        new_types: whether to take types that a later version of the format may have; their tensors are bytes.

    Raises:
        MalformedBody, BodyTooLarge, InvalidTensor: as `read_header`.
    """
    header = parse_body(text, "safetensors header")
    if not isinstance(header, dict):
        raise _malformed("it must be an object")
    metadata = _read_metadata(header.pop(_METADATA, None))
    if tensors_limit is not None and len(header) > tensors_limit:
        detail = f"safetensors header: at most {tensors_limit} tensors are accepted, got {len(header)}"
        raise BodyTooLarge(detail, pointer="body", limit=tensors_limit, got=len(header))
    found = (_read_entry(name, info, elements_limit, new_types) for name, info in header.items())
    placed = sorted(found, key=lambda place: place[:2])
    _check_offsets(placed)
    return Contents(tuple(entry for _, _, entry in placed), LENGTH_BYTES + len(text), metadata)


def data_offset(prefix: Prefix, limit_bytes: int = HEADER_LIMIT_BYTES) -> int | None:
    """Return how many bytes stand before the data, or None where more than ``prefix`` is needed to tell.

    Raises:
        MalformedBody: a header that does not begin with ``{``, or too short for it.
        BodyTooLarge: a header over the limit.
    """
    if len(prefix) < LENGTH_BYTES:
        return None
    length = int.from_bytes(prefix[:LENGTH_BYTES], "little")
    if length > limit_bytes:
        found = what_else(prefix[:LENGTH_BYTES])
        what = f"a length of {length}" + (f": it seems to be {found}" if found else "")
        detail = f"safetensors header: at most {limit_bytes} bytes are read, got {what}"
        raise BodyTooLarge(detail, pointer="body", limit=limit_bytes, got=length)
    if length < len("{}"):
        raise _malformed("a length of at least 2 bytes is wanted", length, 2)
    if len(prefix) > LENGTH_BYTES and prefix[LENGTH_BYTES : LENGTH_BYTES + 1] != b"{":
        raise _malformed("it must begin with {")
    return LENGTH_BYTES + length


def what_else(prefix: Prefix) -> str | None:
    """Say what begins so and is often found in a safetensors file's place; None where nobody knows."""
    for start, found in _OTHERS.items():
        if bytes(prefix).lstrip().startswith(start):
            return found
    return None


def encode_header(entries: tuple[Entry, ...], metadata: Mapping[str, str]) -> bytes:
    """Return the header of tensors that will follow each other in this order, padded to a multiple of 8 bytes.

    Args:
        entries: the tensors, C order and little-endian; a dtype is a name of ours or of the format.
        metadata: texts to carry; none where empty.
    """
    header: dict[str, object] = {_METADATA: dict(metadata)} if metadata else {}
    start = 0
    for entry in entries:
        stop = start + entry.nbytes
        header[entry.name] = {"dtype": code_of(entry.dtype), "shape": list(entry.shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def _read_metadata(found: object) -> dict[str, str]:
    """Check the texts by rule 2."""
    found = {} if found is None else found
    if not (isinstance(found, dict) and all(isinstance(value, str) for value in found.values())):
        raise _malformed(f"{_METADATA} must be an object of texts")
    return found


def _read_entry(name: str, info: object, elements_limit: int, new_types: bool) -> tuple[int, int, Entry]:
    """Read one tensor by rules 3 and 4: its offsets and what it is."""
    where = f"tensor {_cut(name)}"
    if not isinstance(info, dict) or not info.keys() >= _KEYS:
        raise _malformed(f"{where}: dtype, shape and data_offsets are wanted")
    code = info["dtype"]
    element = BY_CODE.get(code) if isinstance(code, str) else None
    if element is None and not (new_types and isinstance(code, str)):
        wanted = "a text" if new_types else f"one of {_CODES}"
        raise _malformed(f"{where}: its dtype must be {wanted}", str(code)[:_TEXT_SHOWN], wanted)
    shape, offsets = (_read_integers(info[key], f"{where}: its {key}") for key in ("shape", "data_offsets"))
    if len(offsets) != len(("begin", "end")) or offsets[0] > offsets[1]:
        raise _malformed(f"{where}: its data_offsets must be a begin and an end not before it")
    count, nbytes = count_elements(shape, where, elements_limit), offsets[1] - offsets[0]
    if element is None:
        return offsets[0], offsets[1], Entry(name, code, shape, nbytes)
    if count * element.bits % 8:
        raise _malformed(f"{where}: its {code} elements do not fill whole bytes")
    wanted_bytes = count * element.bits // 8
    if nbytes != wanted_bytes:
        raise _malformed(f"{where}: {wanted_bytes} bytes are wanted by its shape", nbytes, wanted_bytes)
    return offsets[0], offsets[1], Entry(name, dtype_of(code), shape, nbytes)


def _read_integers(found: object, where: str) -> tuple[int, ...]:
    if not (isinstance(found, list) and all(type(item) is int and 0 <= item < 2**63 for item in found)):
        raise _malformed(f"{where} must be a list of integers >= 0")
    return tuple(found)


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
