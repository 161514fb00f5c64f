"""The reply to ``POST /v1/project``: in which format, and what it is made of."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from normtree.errors import InvalidParameter
from normtree.formats import npy, safetensors
from normtree.formats.contents import Contents, Entry
from normtree.formats.elements import BY_NAME
from normtree.http import media
from normtree.http.answer import Payload
from normtree.http.arrival import Arrival
from normtree.http.query import ProjectQuery
from normtree.http.report import to_json
from normtree.http.room import Room
from normtree.http.work import Done, Outcome

_PARTS = ("index", "values", "shape")


class Reply(NamedTuple):
    """An answer's bytes and what is to be known to send them.

    Args:
        payload: header and data.
        needs_sources: whether some of the data is what came: tensors that passed through.
    """

    payload: Payload
    needs_sources: bool


def answer_type(head: Mapping[str, str], arrival: Arrival, query: ProjectQuery) -> str:
    """Return the media type of the answer: what the client likes best of what can hold it, else the body's own.

    Raises:
        NotAcceptable: it accepts none that can hold the answer.
    """
    own = arrival.media_type
    why = _why_not_npy(arrival.contents, query)
    if why:
        others = [name for name in media.SAFETENSORS if name != own]
        return media.answer_type(head, [*([own] if own in media.SAFETENSORS else []), *others], why)
    return media.answer_type(head, media.offered_for(own))


def check_names(contents: Contents, chosen: tuple[Entry, ...], query: ProjectQuery) -> None:
    """Refuse compact forms whose names another tensor of the answer has already.

    Raises:
        InvalidParameter: there is such a name.
    """
    if query.output == "compact":
        names = {entry.name for entry in contents.entries}
        for entry in chosen:
            clash = names.intersection(f"{entry.name}.{part}" for part in _PARTS)
            if clash:
                detail = f"output: the compact form of {entry.name!r} would take the name of another tensor"
                raise InvalidParameter(detail, pointer="output", got=clash.pop())


def write(media_type: str, arrival: Arrival, room: Room, outcome: Outcome) -> Reply:
    """Make the answer's bytes.

    Args:
        media_type: from `answer_type`.
        arrival: what came.
        room: where it and the projections are.
        outcome: what became of the tensors that were projected.
    """
    entries, done = arrival.contents.entries, outcome.done
    if media_type not in media.SAFETENSORS:
        payload = Payload(npy.encode_header(entries[0]), (room.targets[entries[0].name].view,))
        return Reply(payload, needs_sources=False)
    bare = arrival.media_type not in media.SAFETENSORS
    pieces = [piece for entry in entries for piece in _pieces(entry, room, done.get(entry.name), bare=bare)]
    metadata = {**arrival.contents.metadata, **_told(outcome)}
    header = safetensors.encode_header(tuple(entry for entry, _ in pieces), metadata)
    return Reply(Payload(header, tuple(data for _, data in pieces)), needs_sources=len(done) < len(entries))


def answer_headers(arrival: Arrival, outcome: Outcome) -> dict[str, str]:
    """Return what the answer's headers tell besides the timing: conversions, and the certificate of one ball."""
    headers: dict[str, str] = {}
    entries = arrival.contents.entries
    converted = []
    if any(entry.order == "F" for entry in entries):
        converted.append("fortran-order")
    if any(entry.big_endian for entry in entries):
        converted.append("big-endian")
    if converted:
        headers["X-Normtree-Converted"] = ", ".join(converted)
    certificates = [outcome.certificate] if outcome.certificate else [one.certificate for one in outcome.done.values()]
    if len(certificates) == 1 and certificates[0]:
        headers["X-Normtree-Certificate"] = to_json(certificates[0])
    return headers


def _why_not_npy(contents: Contents, query: ProjectQuery) -> str:
    """Say why no ``.npy`` can hold the answer; empty where one can."""
    if query.output == "compact":
        return "a compact form is written as"
    if len(contents.entries) != 1:
        return f"{len(contents.entries)} tensors are written as"
    dtype = contents.entries[0].dtype
    if dtype not in BY_NAME or BY_NAME[dtype].npy is None:
        return f"{dtype} is written as"
    return ""


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
