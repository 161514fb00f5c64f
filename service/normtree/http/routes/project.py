"""``POST /v1/project``: a tensor in, its projection out."""

import json
from contextlib import ExitStack
from time import perf_counter

from fastapi import APIRouter, Request, Response

from normtree import errors
from normtree.engine.timing import Timing
from normtree.http import media
from normtree.http.answer import TensorAnswer
from normtree.http.bodies.npy import encode_header
from normtree.http.exchange import report
from normtree.http.problems import problem_responses
from normtree.http.projection import Pair, Projection, ms
from normtree.http.query import query_parameters, read_query
from normtree.http.receive import open_npy
from normtree.http.service import Service

_RETRY_AFTER_S = 1
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_ANSWERS = {
    200: {
        "description": "The projection: the tensor's shape and dtype, C order, little-endian.",
        "content": dict.fromkeys(media.WRITABLE, _BINARY),
    },
    **problem_responses(
        errors.MalformedBody,
        errors.NotAcceptable,
        errors.BodyTimeout,
        errors.LengthRequired,
        errors.BodyTooLarge,
        errors.UnsupportedMediaType,
        errors.InvalidParameter,
        errors.InvalidTensor,
        errors.ArenaFull,
        errors.NotReady,
        errors.EngineUnavailable,
        errors.WorkersLost,
        errors.OutOfMemory,
        errors.DeadlineExceeded,
    ),
}
_REQUEST = {
    "parameters": query_parameters(),
    "requestBody": {
        "required": True,
        "description": "A float32 or float64 tensor as .npy.",
        "content": dict.fromkeys(media.READABLE, _BINARY),
    },
}


def project_router(service: Service) -> APIRouter:
    """Make the router of projections."""
    router = APIRouter(tags=["projection"])

    @router.post("/v1/project", response_class=Response, responses=_ANSWERS, openapi_extra=_REQUEST)
    async def project(request: Request) -> Response:
        """Project the tensor in the body onto the mixed-norm ball that the query describes."""
        return await _project(request, service)

    return router


async def _project(request: Request, service: Service) -> Response:
    """Check what can be checked before the data is read; then read, work and answer."""
    started = perf_counter()
    if not service.projector.ready:
        raise errors.NotReady("the service is starting or draining", retry_after_s=_RETRY_AFTER_S)
    query = read_query(request.query_params.multi_items())
    answer_type = media.answer_type(request.headers)
    body = await open_npy(request, service.settings)
    header = body.header
    plan = service.projector.plan(header.shape, header.dtype, **query.plan_options())
    arena = service.projector.arena
    with ExitStack() as held:
        asked = perf_counter()
        pair = await service.leasing.run(lambda: Pair.lease(arena, header.data_bytes, held), held)
        leased = perf_counter()
        await body.read_into(pair.source.buffer)
        received = perf_counter()
        work = Projection(header, plan, pair, query.baseline, received, service.settings.deadline_s)
        timing = await service.working.run(lambda: work.run(service.projector), held)
        pair.release_source()  # the answer may take its client long, and needs the target only
        timing = timing.with_stages(receive=ms(started, asked) + ms(leased, received), place=ms(asked, leased))
        timing = report(request.scope, timing)
        return _answer(work, timing, started, answer_type, held)


def _answer(work: Projection, timing: Timing, started: float, media_type: str, held: ExitStack) -> TensorAnswer:
    """Build the answer, which takes over what is held."""
    projected = perf_counter()
    head = encode_header(work.header.shape, work.dtype)
    now = perf_counter()
    timing = timing.with_stages(encode=ms(projected, now), total=ms(started, now))
    headers = _timing_headers(timing)
    if work.conversions:
        headers["X-Normtree-Converted"] = ", ".join(work.conversions)
    data = work.pair.target.buffer
    return TensorAnswer(head, data, held.pop_all(), work.pair.retire_target, media_type=media_type, headers=headers)


def _timing_headers(timing: Timing) -> dict[str, str]:
    """Return the timing for browsers' tools, and whole for programs."""
    return {
        "Server-Timing": ", ".join(f"{stage};dur={took:.3f}" for stage, took in timing.stages_ms.items()),
        "X-Normtree-Timing": json.dumps(timing.as_dict(), separators=(",", ":")),
    }
