"""An inference request of the Open Inference Protocol, version 2: its JSON read and checked.

    {"id": "7", "parameters": {"radius": 2.0},
     "inputs": [{"name": "y", "shape": [3, 4], "datatype": "FP32", "parameters": {"binary_data_size": 48}}],
     "outputs": [{"name": "x", "parameters": {"binary_data": true}}]}

A model of ours has one input, ``y``, and one output, ``x``. The input's elements are ``data`` in the JSON, or follow
the JSON as ``binary_data_size`` bytes, or lie in a region of shared memory. Members that we do not know are ignored,
as the protocol asks; parameters that we do not know are refused by whoever reads them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from typing import Any

from normtree.errors import InvalidParameter, InvalidTensor, MalformedBody
from normtree.formats.contents import Contents, Entry, Prefix
from normtree.formats.elements import ELEMENTS
from normtree.formats.shapes import check_shape
from normtree.formats.strict_json import parse_body

JSON_LIMIT_BYTES = 2**20
INPUT, OUTPUT = "y", "x"
IN_JSON = ("float32", "float64")

_DATATYPES = {element.oip: element for element in ELEMENTS if element.oip}
_RESERVED = frozenset({"priority", "sequence_id", "sequence_start", "sequence_end", "headers"})
_RESERVED_PREFIX = "triton_"
_REGION_KEYS = ("shared_memory_region", "shared_memory_offset", "shared_memory_byte_size")
_TEXT_SHOWN = 40
_REQUESTS_KEPT = 256
_KEPT_BYTES = 2**12

Scalar = str | int | float | bool


@dataclass(frozen=True)
class Region:
    """A part of a registered region of shared memory.

    Args:
        name: of the region.
        offset: bytes of it before the part.
        nbytes: bytes of the part.
    """

    name: str
    offset: int
    nbytes: int


@dataclass(frozen=True)
class InferRequest:
    """A request, checked.

    Args:
        id: to be echoed; None where the client gave none.
        parameters: the request's, without those that the protocol reserves.
        timeout_us: microseconds that the client gives us; None where it gave none.
        entry: the input.
        data: its elements in C order where they stand in the JSON.
        source: where they are in shared memory, if they are.
        binary_output: whether the output's elements are to follow the answer's JSON.
        target: where they are to go in shared memory, if they are.
    """

    id: str | None
    parameters: Mapping[str, Scalar]
    timeout_us: int | None
    entry: Entry
    data: tuple[float, ...] | None
    source: Region | None
    binary_output: bool
    target: Region | None

    @cached_property
    def contents(self) -> Contents:
        """What follows the JSON, or would."""
        return Contents((self.entry,), 0)

    @property
    def binary_bytes(self) -> int:
        """Bytes that follow the JSON."""
        return self.entry.nbytes if self.data is None and self.source is None else 0


def read_request(text: Prefix, *, rank_limit: int, elements_limit: int) -> InferRequest:
    """Read the JSON of a request.

    Args:
        text: the JSON, whole.
        rank_limit: largest number of axes.
        elements_limit: largest number of elements.

    Raises:
        MalformedBody: it is not JSON, or not of the protocol.
        InvalidTensor: a datatype or shape that is not taken.
        InvalidParameter: an input or output that we do not have, or what we cannot do with it.
    """
    if len(text) <= _KEPT_BYTES:
        return _read_kept(bytes(text), rank_limit, elements_limit)
    return _read(text, rank_limit, elements_limit)


@lru_cache(_REQUESTS_KEPT)
def _read_kept(text: bytes, rank_limit: int, elements_limit: int) -> InferRequest:
    """Read a short text, and keep what was made of it: requests of one shape begin with the same one."""
    return _read(text, rank_limit, elements_limit)


def _read(text: Prefix, rank_limit: int, elements_limit: int) -> InferRequest:
    request = parse_body(text, "request")
    if not isinstance(request, dict):
        raise _malformed("request", "an object is wanted")
    identity = request.get("id")
    if not (identity is None or isinstance(identity, str)):
        raise _malformed("id", "a text is wanted")
    own, timeout_us, binary_default = _split(_parameters(request, "parameters"))
    tensor = _only(request.get("inputs"), "inputs", INPUT)
    entry = _read_entry(tensor, rank_limit, elements_limit)
    data, source = _read_source(tensor, entry)
    binary, target = _read_output(request.get("outputs"), entry, default=binary_default)
    return InferRequest(identity, own, timeout_us, entry, data, source, binary, target)


def _split(parameters: dict[str, Scalar]) -> tuple[dict[str, Scalar], int | None, bool]:
    """Part the request's parameters from those that the protocol reserves: a timeout, and how to answer."""
    own = {
        name: value
        for name, value in parameters.items()
        if name not in _RESERVED and not name.startswith(_RESERVED_PREFIX)
    }
    timeout_us = own.pop("timeout", None)
    if timeout_us is not None and (isinstance(timeout_us, bool) or not isinstance(timeout_us, int) or timeout_us < 0):
        wanted = "microseconds, an integer >= 0"
        raise InvalidParameter(
            f"timeout must be {wanted}, got {str(timeout_us)[:_TEXT_SHOWN]}",
            pointer="timeout",
            limit=wanted,
            got=timeout_us,
        )
    return own, timeout_us or None, _flag(own.pop("binary_data_output", False), "binary_data_output")


def _only(tensors: object, where: str, name: str) -> dict[str, Any]:
    """Return the one tensor of a list, which must have our name for it."""
    if not (isinstance(tensors, list) and len(tensors) == 1 and isinstance(tensors[0], dict)):
        raise _malformed(where, f"a list of one object is wanted, {name}")
    found: dict[str, Any] = tensors[0]
    given = found.get("name")
    if given != name:
        shown = str(given)[:_TEXT_SHOWN]
        detail = f"{where}[0].name: there is only {name}, got {shown}"
        raise InvalidParameter(detail, pointer=f"{where}[0].name", limit=name, got=shown)
    return found


def _read_entry(tensor: Mapping[str, Any], rank_limit: int, elements_limit: int) -> Entry:
    datatype = tensor.get("datatype")
    if not isinstance(datatype, str):
        raise _malformed("inputs[0].datatype", "a text is wanted")
    if datatype not in _DATATYPES:
        wanted, shown = ", ".join(_DATATYPES), datatype[:_TEXT_SHOWN]
        detail = f"inputs[0].datatype: {wanted} are accepted, got {shown}"
        raise InvalidTensor(detail, pointer="inputs[0].datatype", limit=wanted, got=shown)
    element = _DATATYPES[datatype]
    shape = _read_shape(tensor.get("shape"), rank_limit, elements_limit)
    return Entry(INPUT, element.name, shape, prod(shape) * element.itemsize)


def _read_shape(found: object, rank_limit: int, elements_limit: int) -> tuple[int, ...]:
    where = "inputs[0].shape"
    if not (isinstance(found, list) and all(type(length) is int for length in found)):
        raise _malformed(where, "a list of integers is wanted")
    check_shape(found, where, rank_limit=rank_limit, elements_limit=elements_limit, pointer=where)
    return tuple(found)


def _read_source(tensor: Mapping[str, Any], entry: Entry) -> tuple[tuple[float, ...] | None, Region | None]:
    """Find where the input's elements are, which must be one place; None and None where they follow the JSON."""
    parameters = _parameters(tensor, "inputs[0].parameters")
    size, region = parameters.get("binary_data_size"), _read_region(parameters, "inputs[0].parameters")
    if [size is None, region is None, tensor.get("data") is None].count(False) != 1:
        raise _malformed("inputs[0]", "exactly one of data, binary_data_size and shared_memory_region is wanted")
    if size is not None and (type(size) is not int or size != entry.nbytes):
        detail = f"inputs[0].parameters.binary_data_size: {entry.nbytes} is wanted by shape and datatype"
        raise MalformedBody(detail, pointer="inputs[0].parameters.binary_data_size", limit=entry.nbytes, got=size)
    if region and region.nbytes != entry.nbytes:
        raise _wrong_size("inputs[0]", region, entry)
    return (None if tensor.get("data") is None else _read_data(tensor["data"], entry)), region


def _read_data(found: object, entry: Entry) -> tuple[float, ...]:
    """Return the elements that stand in the JSON, flat or nested as the shape is."""
    if entry.dtype not in IN_JSON:
        detail = f"inputs[0].data: {entry.dtype} is taken in binary only, {' and '.join(IN_JSON)} in JSON too"
        raise InvalidParameter(detail, pointer="inputs[0].data", limit=", ".join(IN_JSON), got=entry.dtype)
    flat: list[float] = []
    _flatten(found, flat, max(len(entry.shape), 1))
    wanted = prod(entry.shape)
    if len(flat) != wanted:
        detail = f"inputs[0].data: {wanted} elements are wanted by the shape, got {len(flat)}"
        raise MalformedBody(detail, pointer="inputs[0].data", limit=wanted, got=len(flat))
    return tuple(flat)


def _flatten(found: object, flat: list[float], depth: int) -> None:
    """Append the numbers of lists, nested at most ``depth`` deep."""
    if isinstance(found, list) and depth:
        for item in found:
            _flatten(item, flat, depth - 1)
    elif type(found) is float:
        flat.append(found)
    elif type(found) is int:
        flat.append(_widen(found))
    else:
        raise _malformed("inputs[0].data", "numbers are wanted, flat or nested as the shape is")


def _widen(number: int) -> float:
    try:
        return float(number)
    except OverflowError:
        raise InvalidTensor("inputs[0].data: an integer is beyond float64", pointer="inputs[0].data") from None


def _read_output(outputs: object, entry: Entry, *, default: bool) -> tuple[bool, Region | None]:
    """Find how the output is wanted: in binary or not, or in shared memory."""
    if outputs is None or outputs == []:
        return default, None
    where = "outputs[0].parameters"
    parameters = _parameters(_only(outputs, "outputs", OUTPUT), where)
    if "classification" in parameters:
        raise InvalidParameter(f"{where}.classification: not for projections", pointer=f"{where}.classification")
    region = _read_region(parameters, where)
    if region and region.nbytes < entry.nbytes:
        raise _wrong_size("outputs[0]", region, entry)
    return _flag(parameters.get("binary_data", default), f"{where}.binary_data"), region


def _read_region(parameters: Mapping[str, Scalar], where: str) -> Region | None:
    """Read which part of a region of shared memory is meant; None where none is."""
    name, offset, nbytes = (parameters.get(key) for key in _REGION_KEYS)
    if name is None:
        return None
    offset = 0 if offset is None else offset
    if not isinstance(name, str) or any(type(n) is not int or not 0 <= n < 2**63 for n in (offset, nbytes)):
        raise _malformed(where, "a text and integers >= 0 are wanted for shared memory")
    return Region(name, int(offset), int(nbytes or 0))


def _wrong_size(where: str, region: Region, entry: Entry) -> InvalidParameter:
    pointer = f"{where}.parameters.shared_memory_byte_size"
    detail = f"{pointer}: {entry.nbytes} bytes are wanted by shape and datatype, got {region.nbytes}"
    return InvalidParameter(detail, pointer=pointer, limit=entry.nbytes, got=region.nbytes)


def _parameters(owner: Mapping[str, Any], where: str) -> dict[str, Scalar]:
    """Return an object's parameters, scalars by name."""
    found = owner.get("parameters")
    if found is None:
        return {}
    if not (isinstance(found, dict) and all(isinstance(value, str | int | float) for value in found.values())):
        raise _malformed(where, "an object of texts, numbers and truth values is wanted")
    return found


def _flag(value: Scalar, where: str) -> bool:
    if not isinstance(value, bool):
        raise _malformed(where, "true or false is wanted")
    return value


def _malformed(where: str, what: str) -> MalformedBody:
    return MalformedBody(f"{where}: {what}", pointer=where)
