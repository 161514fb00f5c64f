"""Bodies of any number of tensors as safetensors."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from normtree.formats import safetensors
from normtree.formats.contents import Contents, Entry, Prefix
from normtree.http.body_formats.tensor_format import TensorFormat
from normtree.http.head.query import ProjectQuery
from normtree.http.request.buffers import Room
from normtree.http.request.format import Asked, FinishedRequest, Payload
from normtree.http.request.work import Done, Outcome
from normtree.http.request.work_report import to_json


class SafetensorsFormat(TensorFormat):
    """The format of checkpoints, with texts beside the tensors."""

    name = "safetensors"
    media_types = ("application/vnd.safetensors", "application/x-safetensors")
    has_names = True
    is_brief = False

    def read_header(self, prefix: Prefix, asked: Asked, query: ProjectQuery) -> Contents | None:
        """Read the header; see `normtree.formats.safetensors.read_header`."""
        return safetensors.read_header(prefix, elements_limit=asked.settings.elements_limit)

    def write(self, projected: FinishedRequest) -> Payload:
        """Write a header, then the projections, or their compact forms, and what passed through."""
        arrival, room, outcome = projected.arrival, projected.room, projected.outcome
        entries, done = arrival.contents.entries, outcome.done
        bare = not arrival.named
        pieces = [piece for entry in entries for piece in _pieces(entry, room, done.get(entry.name), bare=bare)]
        metadata = {**arrival.contents.metadata, **_told(outcome)}
        header = safetensors.encode_header(tuple(entry for entry, _ in pieces), metadata)
        return Payload(header, tuple(data for _, data in pieces), needs_sources=len(done) < len(entries))


def _pieces(entry: Entry, room: Room, done: Done | None, *, bare: bool) -> list[tuple[Entry, memoryview]]:
    """Return the tensors of the answer that one of the body becomes, and their bytes."""
    if done is None:
        return [(entry, room.sources[entry.name].view)]
    if done.compact is None:
        return [(entry, room.targets[entry.name].view)]
    compact, prefix = done.compact, "" if bare else f"{entry.name}."
    values = Entry(f"{prefix}values", entry.dtype, compact.values.shape, compact.values.nbytes)
    return [
        _integers(f"{prefix}index", compact.index),
        _integers(f"{prefix}shape", np.array(entry.shape, np.int64)),
        (values, room.targets[entry.name].view[: values.nbytes]),
    ]


def _integers(name: str, values: NDArray[np.int64]) -> tuple[Entry, memoryview]:
    return Entry(name, "I64", values.shape, values.nbytes), memoryview(values.tobytes())


def _told(outcome: Outcome) -> dict[str, str]:
    """Return what the metadata tells: certificates, and which axes the groups of compact forms are counted over."""
    done: Mapping[str, Done] = outcome.done
    certificates = {name: one.certificate for name, one in done.items() if one.certificate}
    axes = {name: one.compact.axes for name, one in done.items() if one.compact}
    splits = {name: one.compact.split for name, one in done.items() if one.compact and one.compact.split}
    told = {
        "normtree.certificate": certificates,
        "normtree.certificate.global": outcome.certificate,
        "normtree.axes": axes,
        "normtree.split": splits,
    }
    return {key: to_json(value) for key, value in told.items() if value}
