r"""The ``.npy`` format: its header read from the first bytes of a stream, and written.

    \x93NUMPY   version       header length   header                                                      data
    6 bytes     2 x 1 byte    2 or 4 bytes    {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4)}   ...

The header is a Python literal, but no Python parser reads it here, NumPy's reader with its parser included: the few
kinds of value that can occur are matched as text in linear time, so nothing in it can be evaluated, nested or given
twice. NumPy's takes a key twice and a truth value for a length, and looks at a header's length when it has read it.
"""

import re
from functools import lru_cache
from io import BytesIO
from typing import Literal

from numpy.lib import format as numpy_format

from normtree.errors import InvalidTensor, MalformedBody
from normtree.formats.contents import Contents, Entry, Prefix
from normtree.formats.elements import BY_NAME, ELEMENTS, Element
from normtree.formats.shapes import check_shape

MAGIC = numpy_format.MAGIC_PREFIX
HEADER_LIMIT_BYTES = 10_000
_HEADERS_KEPT = 256

_ELEMENTS = {f"{order}{e.npy[1:]}": e for e in ELEMENTS if e.npy for order in "<>"}
_LENGTH_BYTES = {1: 2, 2: 4, 3: 4}
_SIZED_KINDS = {"f": "float", "i": "int", "u": "uint", "c": "complex"}
_OTHER_KINDS = {"b": "bool", "O": "object", "S": "bytes", "U": "text"}
_TEXT_SHOWN = 40
_BLANKS = " \t\n"  # what Python's own parser skips; Unicode has more

# Possessive quantifiers (*+) never give back what they took: no header can make these patterns slow.
_ITEM = re.compile(
    r"""[ \t\n]*+ (?P<quote>['"]) (?P<key>[a-z_]++) (?P=quote) [ \t\n]*+ : [ \t\n]*+
        (?P<value> '[^'\\]*+' | "[^"\\]*+" | True | False | \([^()]*+\) ) [ \t\n]*+ (?:,|$)""",
    re.ASCII | re.VERBOSE,
)
_STRUCTURED = re.compile(r"""[ \t\n]*+['"]descr['"][ \t\n]*+:[ \t\n]*+\[""", re.ASCII)
_DESCR = re.compile(r"[<>|=]?(?P<kind>[a-zA-Z])(?P<bytes>[0-9]{0,4})", re.ASCII)
_AXIS = re.compile(r"(?P<length>-?(?:0|[1-9][0-9]{0,18}))L?", re.ASCII)  # Python 2 wrote an L behind some integers


def read_header(prefix: Prefix, *, rank_limit: int, elements_limit: int) -> Contents | None:
    """Read the header from the first bytes of a body.

    Args:
        prefix: the body's first bytes, as many as there are by now.
        rank_limit: largest number of axes.
        elements_limit: largest number of elements.

    Returns:
        One tensor named ``y``; None where ``prefix`` is right so far but more bytes are needed.

    Raises:
        MalformedBody: it is no ``.npy`` header, or too long.
        InvalidTensor: the header is right, but of a tensor that is not taken: dtype, shape, size.
    """
    offset = data_offset(prefix)
    if offset is None or len(prefix) < offset:
        return None
    return _read_header(bytes(prefix[:offset]), rank_limit, elements_limit)


@lru_cache(_HEADERS_KEPT)
def _read_header(header: bytes, rank_limit: int, elements_limit: int) -> Contents:
    """Read a whole header; tensors of one shape have the same one, so what was made of it is kept."""
    start = len(MAGIC) + 2 + _LENGTH_BYTES[header[len(MAGIC)]]
    items = _read_items(header[start:].decode("latin-1"))
    element = _read_element(items["descr"])
    shape = _read_tuple(items["shape"])
    elements = check_shape(shape, "shape", rank_limit=rank_limit, elements_limit=elements_limit)
    order: Literal["C", "F"] = "F" if _read_flag(items["fortran_order"]) else "C"
    big_endian = items["descr"][1] == ">"
    entry = Entry("y", element.name, shape, elements * element.itemsize, order, big_endian)
    return Contents((entry,), len(header))


def begins(prefix: Prefix) -> bool:
    """Tell whether the first bytes of a body, as many as there are by now, may be those of a ``.npy``."""
    return prefix[: len(MAGIC)] == MAGIC[: len(prefix)]


def data_offset(prefix: Prefix) -> int | None:
    """Return how many bytes stand before the data, or None where more than ``prefix`` is needed to tell.

    Raises:
        MalformedBody: no magic, a version we do not know, or a header over 10,000 bytes, found before it is read.
    """
    if not begins(prefix):
        raise MalformedBody("body: wanted .npy, which begins with \\x93NUMPY", pointer="body")
    if len(prefix) < len(MAGIC) + 2:
        return None
    major, minor = prefix[len(MAGIC)], prefix[len(MAGIC) + 1]
    if major not in _LENGTH_BYTES or minor != 0:
        raise _malformed(f"wanted version 1.0, 2.0 or 3.0, got {major}.{minor}", f"{major}.{minor}")
    start = len(MAGIC) + 2 + _LENGTH_BYTES[major]
    if len(prefix) < start:
        return None
    length = int.from_bytes(prefix[len(MAGIC) + 2 : start], "little")
    if length > HEADER_LIMIT_BYTES:
        detail = f".npy header: at most {HEADER_LIMIT_BYTES} bytes are read, got a length of {length}"
        raise MalformedBody(detail, pointer="body", limit=HEADER_LIMIT_BYTES, got=length)
    return start + length


@lru_cache(_HEADERS_KEPT)
def encode_header(entry: Entry) -> bytes:
    """Return the version 1.0 header of a tensor, C order and little-endian, padded so that its data is aligned to 64.

    Args:
        entry: the tensor; its element type has a name in this format.
    """
    text = BytesIO()
    descr = BY_NAME[entry.dtype].npy
    numpy_format.write_array_header_1_0(text, {"descr": descr, "fortran_order": False, "shape": entry.shape})
    return text.getvalue()


def _read_items(text: str) -> dict[str, str]:
    """Split the header's text into its three items, their values still text."""
    inner = text.strip(_BLANKS)
    if not (inner.startswith("{") and inner.endswith("}")):
        raise _malformed("wanted a dictionary of descr, fortran_order and shape")
    inner = inner[1:-1].strip(_BLANKS)
    items: dict[str, str] = {}
    position = 0
    while position < len(inner):
        item = _ITEM.match(inner, position)
        if item is None:
            if _STRUCTURED.match(inner, position):
                raise _refused_dtype("a structured type", "structured")
            raise _malformed(f"cannot be read at character {position} of the dictionary")
        if item["key"] in items:
            raise _malformed("a key is given twice", item["key"])
        items[item["key"]] = item["value"]
        position = item.end()
    if items.keys() != {"descr", "fortran_order", "shape"}:
        raise _malformed("wanted exactly the keys descr, fortran_order, shape", ", ".join(items) or "none")
    return items


def _read_element(value: str) -> Element:
    """Return the element type, one of those we take."""
    text = value[1:-1]
    if value[0] not in "'\"":
        raise _malformed("descr must be a string", value)
    if text not in _ELEMENTS:
        raise _refused_dtype(_name_of(text), text)
    return _ELEMENTS[text]


def _name_of(descr: str) -> str:
    """Return a type's common name, ``float16`` for ``<f2``."""
    match = _DESCR.fullmatch(descr)
    if match is None:
        return "an unknown type"
    if match["kind"] in _SIZED_KINDS and match["bytes"]:
        return f"{_SIZED_KINDS[match['kind']]}{8 * int(match['bytes'])}"
    return _OTHER_KINDS.get(match["kind"], "an unknown type")


def _refused_dtype(name: str, text: str) -> InvalidTensor:
    """Return the error for an element type that is not taken."""
    detail = f"dtype: float16, float32 and float64 (descr {', '.join(_ELEMENTS)}) are accepted, got {name}"
    return InvalidTensor(detail, pointer="dtype", limit=", ".join(_ELEMENTS), got=text[:_TEXT_SHOWN])


def _read_flag(value: str) -> bool:
    """Return the truth value that stands in the text."""
    if value not in ("True", "False"):
        raise _malformed("fortran_order must be True or False", value)
    return value == "True"


def _read_tuple(value: str) -> tuple[int, ...]:
    """Return the integers of a tuple's text; one without a comma is no tuple."""
    parts = [part.strip(_BLANKS) for part in value[1:-1].split(",")]
    if parts[-1] == "":
        parts.pop()
    elif len(parts) == 1:
        raise _malformed("shape must be a tuple of integers", value)
    axes = [_AXIS.fullmatch(part) for part in parts]
    if value[0] != "(" or None in axes:
        raise _malformed("shape must be a tuple of integers", value)
    return tuple(int(axis["length"]) for axis in axes if axis)


def _malformed(what: str, got: str | None = None) -> MalformedBody:
    """Return the error for a header that cannot be read, with the text at fault cut to a line."""
    shown = None if got is None else got[:_TEXT_SHOWN]
    detail = f".npy header: {what}" if shown is None else f".npy header: {what}, got {shown}"
    return MalformedBody(detail, pointer="body", got=shown)
