"""Inference requests of the Open Inference Protocol: JSON that says how, and a tensor in it, after it or elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from pydantic_core import to_json

from normtree.engine.timing.schema import Timing
from normtree.errors import BodyTooLarge, InvalidParameter, MalformedBody
from normtree.formats.contents import Prefix
from normtree.formats.elements import BY_NAME
from normtree.formats.oip import IN_JSON, JSON_LIMIT_BYTES, OUTPUT, InferRequest, Scalar, read_request
from normtree.http.body.inflate import Inflated
from normtree.http.body.receive import Body, fill, wrong_length
from normtree.http.body.small_json import check_json
from normtree.http.head.head import Head
from normtree.http.head.query import WorkQuery, read_parameters
from normtree.http.inference.model import VERSION, Model
from normtree.http.request.format import Arrival, Asked, FinishedRequest, Payload
from normtree.http.request.work_report import flatten, server_timing
from normtree.http.threads.off_loop import SHORT_BYTES, off_loop

LENGTH_HEADER = "Inference-Header-Content-Length"
JSON, BINARY = "application/json", "application/octet-stream"
_US_PER_MS = 1e3
_LENGTH_DIGITS = 19
_TEXT_SHOWN = 80
_QUERIES_KEPT = 256
_KEPT_LENGTH = 1000
_ALIGNMENT = 64


@dataclass(slots=True, kw_only=True)
class InferenceArrival(Arrival):
    """A request whose JSON has been read.

    Attributes:
        request: what its JSON says, in accord with the body's length.
    """

    request: InferRequest

    async def read_into(self, places: Sequence[memoryview]) -> None:
        """Read the tensor into its place, from the JSON or from what follows it, unless it is in shared memory."""
        data = self.request.data
        if data is not None:
            with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused as such
                np.frombuffer(places[0], self.request.entry.dtype)[:] = np.array(data)
            return
        left = await fill(places, self.first, self.rest)
        if isinstance(self.rest, Inflated):
            if left:
                raise MalformedBody("body: too long: more bytes than the request announces", pointer="body")
            await self.rest.end()


class InferenceFormat:
    """Requests to a model, and their answers.

    Args:
        model: which projects.
    """

    def __init__(self, model: Model) -> None:
        self._model = model

    async def open(self, asked: Asked, body: Body) -> Arrival:
        """Check a request's headers, then read its JSON and no more than what came with it.

        Raises:
            LengthRequired, BodyTooLarge, MalformedBody, BodyTimeout, UnsupportedMediaType: the body is at fault.
            InvalidParameter, InvalidTensor: what its JSON says cannot be done.
        """
        head, settings = asked.head, asked.settings
        check_json(head)
        coding = head.get("content-encoding", "identity").strip().lower()
        rest = body if coding == "identity" else Inflated(body, coding)
        text, first = await _read_json(rest, _json_length(head))
        request = await off_loop(
            lambda: read_request(text, rank_limit=settings.rank_limit, elements_limit=settings.elements_limit),
            short=len(text) <= SHORT_BYTES,
        )
        limit = asked.body_limit.nbytes
        if request.binary_bytes > limit:
            detail = f"inputs[0]: at most {limit} bytes are accepted, got {request.binary_bytes}"
            raise BodyTooLarge(detail, pointer="inputs[0]", limit=limit, got=request.binary_bytes)
        if rest is body and body.length != len(text) + request.binary_bytes:
            raise wrong_length("what its JSON announces", len(text) + request.binary_bytes, body.length)
        binary = request.binary_output and not request.target
        return InferenceArrival(
            request.contents,
            request.contents.entries,
            _read_work(request, self._model),
            answer=self,
            answer_type=BINARY if binary else JSON,
            first=first,
            rest=rest,
            source=request.source,
            target=request.target,
            request=request,
        )

    def write(self, projected: FinishedRequest) -> Payload:
        """Write the answer's JSON, and the projection in it, after it or in shared memory."""
        arrival = projected.arrival
        assert isinstance(arrival, InferenceArrival)
        request, entry = arrival.request, arrival.request.entry
        data = memoryview(b"") if request.target else projected.room.targets[entry.name].view
        text = to_json(self._describe(request, projected, data))
        if arrival.answer_type == JSON:
            return Payload(text, ())
        text += b" " * (-len(text) % _ALIGNMENT)  # so that the tensor is aligned where the body is
        return Payload(text, (data,), {LENGTH_HEADER: str(len(text))})

    def timing_headers(self, projected: FinishedRequest, timing: Timing) -> dict[str, str]:
        """Tell of the stages; the JSON's parameters tell more."""
        return {"Server-Timing": server_timing(timing)}

    def _describe(self, request: InferRequest, projected: FinishedRequest, data: memoryview) -> dict[str, object]:
        """Return what the JSON says."""
        (done,) = projected.outcome.done.values()
        so_far = projected.timing.with_stages(encode=0.0, total=projected.total_ms)
        told = flatten("timing", so_far.as_dict())
        if done.certificate:
            told.update(flatten("certificate", done.certificate))
        if projected.trace:
            told["trace"] = projected.trace
        return {
            **({} if request.id is None else {"id": request.id}),
            "model_name": self._model.name,
            "model_version": VERSION,
            "parameters": told,
            "outputs": [_output(request, data)],
        }


def _output(request: InferRequest, data: memoryview) -> dict[str, object]:
    """Describe the output, which is the projection itself where it is wanted in the JSON."""
    entry, target = request.entry, request.target
    output: dict[str, object] = {"name": OUTPUT, "datatype": BY_NAME[entry.dtype].oip, "shape": list(entry.shape)}
    if target:
        output["parameters"] = {
            "shared_memory_region": target.name,
            "shared_memory_offset": target.offset,
            "shared_memory_byte_size": entry.nbytes,
        }
    elif request.binary_output:
        output["parameters"] = {"binary_data_size": entry.nbytes}
    else:
        output["data"] = np.frombuffer(data, entry.dtype).tolist()
    return output


def _read_work(request: InferRequest, model: Model) -> WorkQuery:
    """Return how a request wants its tensor to be projected by a model.

    Raises:
        InvalidParameter: a parameter that is unknown or not permitted, or that the model contradicts; or an output
            that JSON cannot hold.
    """
    given = tuple((name, type(value), value) for name, value in request.parameters.items())
    keeping = all(len(value) <= _KEPT_LENGTH for _, _, value in given if isinstance(value, str))
    query = _read_query(given, model) if keeping else _read_query.__wrapped__(given, model)
    _check_output(request)
    if request.timeout_us is None:
        return query
    timeout_ms = request.timeout_us / _US_PER_MS
    return query.model_copy(update={"deadline_ms": min(timeout_ms, query.deadline_ms or timeout_ms)})


@lru_cache(_QUERIES_KEPT)
def _read_query(parameters: tuple[tuple[str, type, Scalar], ...], model: Model) -> WorkQuery:
    """Check parameters; clients give the same again and again, and their types tell true from 1."""
    given = {name: value for name, _, value in parameters}
    if "exact" in given and given["exact"] is not model.exact:
        detail = f"exact is the model's, and {model.name}'s is {model.exact}".lower()
        raise InvalidParameter(detail, pointer="exact", limit=model.exact)
    return read_parameters(WorkQuery, {**given, "exact": model.exact})


def _check_output(request: InferRequest) -> None:
    """Refuse output as JSON where that cannot hold it, or would be too long."""
    if request.binary_output or request.target:
        return
    entry, pointer = request.entry, "outputs[0].parameters.binary_data"
    if entry.dtype not in IN_JSON:
        detail = f"outputs[0]: {entry.dtype} is written in binary only: ask for binary_data"
        raise InvalidParameter(detail, pointer=pointer, limit=", ".join(IN_JSON), got=entry.dtype)
    if entry.nbytes > JSON_LIMIT_BYTES:
        detail = f"outputs[0]: a tensor over {JSON_LIMIT_BYTES} bytes is written in binary only: ask for binary_data"
        raise InvalidParameter(detail, pointer=pointer, limit=JSON_LIMIT_BYTES, got=entry.nbytes)


def _json_length(head: Head) -> int | None:
    """Return how many bytes of the body are JSON; None for all of them."""
    given = head.get(LENGTH_HEADER.lower())
    if given is None:
        return None
    if not (given.isascii() and given.isdigit() and len(given) <= _LENGTH_DIGITS):
        shown = given[:_TEXT_SHOWN]
        raise MalformedBody(f"{LENGTH_HEADER}: wanted a number of bytes, got {shown}", pointer=LENGTH_HEADER, got=shown)
    return _bounded(int(given))


async def _read_json(body: Body | Inflated, length: int | None) -> tuple[bytes, bytes | memoryview]:
    """Read the JSON, and return it with what has come after it."""
    if length is None and isinstance(body, Inflated):
        return await body.read_all(JSON_LIMIT_BYTES), b""
    if isinstance(body, Body):
        length = _bounded(body.length) if length is None else length
        if length > body.length:
            raise wrong_length(f"its {LENGTH_HEADER}", length, body.length)
    found: Prefix = await body.chunk() if length else b""
    while len(found) < (length or 0):
        found = bytearray(found) if isinstance(found, bytes) else found
        found += await body.chunk()
    return bytes(found[:length]), memoryview(found)[length or 0 :]


def _bounded(length: int) -> int:
    """Return a length of JSON that is not too long to be read."""
    if length > JSON_LIMIT_BYTES:
        detail = f"JSON: at most {JSON_LIMIT_BYTES} bytes are read, got {length}"
        raise BodyTooLarge(detail, pointer=LENGTH_HEADER, limit=JSON_LIMIT_BYTES, got=length)
    return length
