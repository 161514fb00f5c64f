"""The answer to an inference request: its JSON, and the tensor in it, after it or in shared memory."""

import numpy as np
from pydantic_core import to_json

from normtree.engine.timing import Timing
from normtree.formats.elements import BY_NAME
from normtree.formats.oip import OUTPUT, InferRequest
from normtree.http.answer import Payload
from normtree.http.models import VERSION, Model
from normtree.http.report import flatten
from normtree.http.work import Done

_ALIGNMENT = 64


def write_inference(
    request: InferRequest, model: Model, done: Done, timing: Timing, data: memoryview, trace: str | None
) -> tuple[Payload, int | None]:
    """Make the answer's bytes.

    Args:
        request: what was asked for.
        model: of whom.
        done: what became of the tensor.
        timing: of all of the request, as far as it is known.
        data: the projection.
        trace: where the request's trace is; None where none was asked for.

    Returns:
        The bytes, and how many of them are the JSON; None where all are.
    """
    entry = request.entry
    output: dict[str, object] = {"name": OUTPUT, "datatype": BY_NAME[entry.dtype].oip, "shape": list(entry.shape)}
    if request.target:
        output["parameters"] = {
            "shared_memory_region": request.target.name,
            "shared_memory_offset": request.target.offset,
            "shared_memory_byte_size": entry.nbytes,
        }
    elif request.binary_output:
        output["parameters"] = {"binary_data_size": entry.nbytes}
    else:
        output["data"] = np.frombuffer(data, entry.dtype).tolist()
    told = {**flatten("timing", timing.as_dict()), **flatten("certificate", done.certificate or {})}
    if trace:
        told["trace"] = trace
    answer = {
        **({} if request.id is None else {"id": request.id}),
        "model_name": model.name,
        "model_version": VERSION,
        "parameters": told,
        "outputs": [output],
    }
    text = to_json(answer)
    if request.target or not request.binary_output:
        return Payload(text, ()), None
    text += b" " * (-len(text) % _ALIGNMENT)  # so that the tensor is aligned where the body is
    return Payload(text, (data,)), len(text)
