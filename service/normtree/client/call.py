"""A call as data: what is sent for a projection, and how the answer is read. Both clients share it."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Literal, TypedDict

import numpy as np

from normtree.client.answers import Projected, ProjectedTensors
from normtree.client.arrays import Array, Restore, as_array
from normtree.client.receipt import MEDIA_TYPE, Progress, Receipt
from normtree.formats import safetensors
from normtree.formats.contents import Entry
from normtree.formats.elements import BY_CODE, code_of, dtype_of

PATH = "/v1/project"
ONLY = "y"  # the name of a tensor that is sent alone
_SLICE_BYTES = 2**20
_SENDABLE = tuple(element.name for element in BY_CODE.values() if element.dtype is not None)


class Options(TypedDict, total=False):
    """What else a projection may be asked for, as in the query of ``POST /v1/project``; the service checks it."""

    axes: str | None
    split: str | None
    sparsity: float | None
    groups: int | None
    exact: bool
    engine: Literal["auto", "inline", "ray"]
    workers: int | None
    baseline: Literal["none", "measure"]
    deadline_ms: float | None
    certificate: bool
    trace: bool
    scope: Literal["tensor", "global"]


@dataclass(frozen=True)
class Call:
    """A request for projections, ready to be sent any number of times.

    Attributes:
        params: of the query.
        head: bytes before the tensors'.
        arrays: the tensors by name, in the order in which they are sent.
        restores: how each becomes what its caller sent.
        progress: told of bytes sent and received; None for nobody.
    """

    params: Mapping[str, str]
    head: bytes
    arrays: Mapping[str, Array]
    restores: Mapping[str, Restore]
    progress: Progress | None

    @classmethod
    def of(
        cls, tensors: Mapping[str, object], options: Mapping[str, object], *, compact: bool, progress: Progress | None
    ) -> "Call":
        """Make a call.

        Raises:
            TypeError: what is to be sent is no tensor, or of an element type that the format has no name for; a name
                that is no text.
        """
        for name in tensors:
            if not isinstance(name, str):
                raise TypeError(f"tensors: wanted texts as names, got {name!r}")
        found = {name: as_array(tensor, name) for name, tensor in tensors.items()}
        arrays = {name: array for name, (array, _) in found.items()}
        entries = tuple(
            Entry(name, _type_name(array, name), array.shape, array.nbytes) for name, array in arrays.items()
        )
        given = {**options, "output": "compact"} if compact else options
        params = {name: _text(value) for name, value in given.items() if value is not None}
        restores = {name: restore for name, (_, restore) in found.items()}
        return cls(params, safetensors.encode_header(entries, {}), arrays, restores, progress)

    @property
    def headers(self) -> dict[str, str]:
        """The request's headers."""
        return {"Content-Type": MEDIA_TYPE, "Accept": MEDIA_TYPE, "Content-Length": str(self.nbytes)}

    @property
    def nbytes(self) -> int:
        """Bytes of the body."""
        return len(self.head) + sum(array.nbytes for array in self.arrays.values())

    def body(self) -> Iterator[bytes]:
        """Yield the body by slices of the tensors' own memory."""
        sent = len(self.head)
        yield self.head
        for array in self.arrays.values():
            view = array.reshape(-1).view(np.uint8).data
            for start in range(0, len(view), _SLICE_BYTES):
                part = view[start : start + _SLICE_BYTES]
                yield part  # type: ignore[misc]  # any bytes will do, and a copy would cost
                sent += len(part)
                if self.progress:
                    self.progress("sent", sent, self.nbytes)

    def one(self, receipt: Receipt) -> Projected:
        """Read the answer to one tensor."""
        answer = self.several(receipt)
        certificate = answer.certificates.get(ONLY)
        return Projected(answer.tensors[ONLY], answer.timing, certificate, answer.request_id, answer.trace_path)

    def several(self, receipt: Receipt) -> ProjectedTensors:
        """Read an answer.

        Raises:
            UnexpectedAnswer: it is none of the service's.
        """
        contents = receipt.contents()
        parts = {entry.name: _array(receipt.body, start, entry) for start, entry in contents.placed()}
        axes = json.loads(contents.metadata.get("normtree.axes", "{}"))
        splits = json.loads(contents.metadata.get("normtree.split", "{}"))
        tensors = {
            name: restore(_expand(parts, name, axes[name], splits.get(name)) if name in axes else parts[name])
            for name, restore in self.restores.items()
        }
        return ProjectedTensors(
            tensors,
            timing=receipt.json("X-Normtree-Timing"),
            certificates=json.loads(contents.metadata.get("normtree.certificate", "{}")),
            certificate=json.loads(contents.metadata.get("normtree.certificate.global", "null")),
            request_id=receipt.request_id,
            trace_path=receipt.headers.get("X-Normtree-Trace"),
        )


def _array(body: bytearray, start: int, entry: Entry) -> Array:
    """Return a tensor of the answer, in the answer's own memory."""
    dtype = np.dtype(BY_CODE[code_of(entry.dtype)].dtype)
    flat = np.frombuffer(body, np.uint8, entry.nbytes, start)
    return flat.view(dtype).reshape(entry.shape) if entry.nbytes else np.empty(entry.shape, dtype)


def _expand(parts: Mapping[str, Array], name: str, axes: list[int], split: str | None) -> Array:
    """Put the surviving groups of one tensor back among zeros."""
    from normtree.compact import expand  # with the kernels, which take a moment

    index, values, shape = (parts[f"{name}.{part}"] for part in ("index", "values", "shape"))
    return expand(index, values, shape.tolist(), axes, split)


def _type_name(array: Array, where: str) -> str:
    """Return the format's name of an element type, or ours for those that can be projected."""
    name = array.dtype.name
    if name not in _SENDABLE or prod(array.shape) * array.itemsize != array.nbytes:
        raise TypeError(f"{where}: dtype {name} cannot be sent; wanted {', '.join(_SENDABLE)}")
    return dtype_of(code_of(name))


def _text(value: object) -> str:
    """Write a parameter as a query has it; scalars and arrays without axes are numbers like others."""
    if not isinstance(value, str) and getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    if not isinstance(value, str | int | float) and hasattr(value, "__float__"):
        value = float(value)
    if isinstance(value, bool):
        return str(int(value))
    return repr(value) if isinstance(value, float) else str(value)
