"""``POST /v2/models/{name}/infer``: a tensor in, its projection out, by the Open Inference Protocol."""

from collections.abc import Mapping
from contextlib import ExitStack
from time import perf_counter
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from starlette.types import Scope

from normtree import errors
from normtree.engine.timing import Timing
from normtree.formats.oip import InferRequest
from normtree.http.answer import TensorAnswer
from normtree.http.auth import caller_of, client_name
from normtree.http.exchange import report, report_answer
from normtree.http.inference import LENGTH_HEADER, Inference, open_inference, read_work
from normtree.http.inference_answer import write_inference
from normtree.http.models import VERSION, Model, find_model
from normtree.http.planning import plan_each
from normtree.http.problems import problem_responses
from normtree.http.regions import Use
from normtree.http.report import server_timing
from normtree.http.room import Room
from normtree.http.routes.shared_memory import check_local
from normtree.http.service import Service
from normtree.http.tensor_problems import TENSOR_PROBLEMS
from normtree.http.work import Item, Outcome, Work, ms

_JSON, _BINARY = "application/json", "application/octet-stream"
_COUNT = {"type": "integer", "minimum": 0}
_ANSWERS = {
    200: {
        "description": "The projection `x`: in the JSON, after it, or in shared memory.",
        "content": {_JSON: {"schema": {"type": "object"}}, _BINARY: {"schema": {"type": "string", "format": "binary"}}},
        "headers": {
            "Server-Timing": {
                "description": "Stages of the work, in milliseconds; the JSON's parameters tell more.",
                "schema": {"type": "string"},
            },
            LENGTH_HEADER: {"description": "Where a tensor follows the JSON, that one's length.", "schema": _COUNT},
        },
    },
    **TENSOR_PROBLEMS,
    **problem_responses(errors.RegionRefused, errors.NotLocal, errors.ModelNotFound),
}
_REQUEST = {
    "requestBody": {
        "required": True,
        "description": f"A request's JSON, then its tensor; {LENGTH_HEADER} is the length of the JSON.",
        "content": {_JSON: {"schema": {"type": "object"}}, _BINARY: {"schema": {"type": "string", "format": "binary"}}},
    },
}


def infer_router(service: Service) -> APIRouter:
    """Make the router of inferences."""
    router = APIRouter(prefix="/v2/models", tags=["inference"])
    described: dict[str, Any] = {"response_class": Response, "responses": _ANSWERS, "openapi_extra": _REQUEST}

    @router.post("/{name}/infer", **described)
    @router.post("/{name}/versions/{version}/infer", **described)
    async def infer(request: Request, name: str, version: str = VERSION) -> Response:
        """Project the tensor `y` onto the mixed-norm ball that the parameters describe."""
        model, started = find_model(name, version), perf_counter()
        try:
            return await _infer(request, service, model, started)
        except BaseException:
            service.statistics[model.name].failed(ms(started, perf_counter()))
            raise

    return router


async def _infer(request: Request, service: Service, model: Model, started: float) -> Response:
    """Check what can be checked before the tensor is read; then read, work and answer."""
    service.check_ready()
    inference = await open_inference(request, service.settings)
    asked, entry = inference.request, inference.request.entry
    query = read_work(asked, model)
    with ExitStack() as held:
        shared = _shared(request, service, asked, held)
        (plan,) = plan_each(service.projector, (entry,), query)
        leasing = perf_counter()
        arriving, leaving = (() if place in shared else (entry,) for place in ("source", "target"))
        room = await service.make_room(request.scope, inference.rest, arriving, leaving, (plan,), held)
        leased = perf_counter()
        await _receive(inference, room)
        received = perf_counter()
        source = shared["source"].tensor if "source" in shared else room.source(entry)
        target = shared["target"].tensor if "target" in shared else room.target(entry)
        work = Work((Item(entry, source, target, plan),), query, received, service.deadline_s(query.deadline_ms))
        outcome = await _run(service, work, held, request, shared)
        receive, place = ms(started, leasing) + ms(leased, received), ms(leasing, leased)
        queue, decode = outcome.queue_ms, outcome.decode_ms
        timing = report(request.scope, outcome.timing, receive=receive, decode=decode, queue=queue, place=place)
        trace = service.traces.keep(client_name(request.scope), timing) if query.trace else None
        return _answer(request.scope, asked, model, room, outcome, timing, started, held, service, trace)


def _shared(request: Request, service: Service, asked: InferRequest, held: ExitStack) -> dict[str, Use]:
    """Return which of source and target are in clients' shared memory, and where."""
    parts = {"source": asked.source, "target": asked.target}
    named = {place: part for place, part in parts.items() if part}
    if not named:
        return {}
    if service.regions is None:
        raise errors.RegionRefused("shared_memory_region: this service takes no shared memory", pointer="name")
    check_local(request)
    regions, caller = service.regions, caller_of(request.scope)
    if asked.source and asked.target:
        regions.check_apart(caller, asked.source, asked.target)
    return {place: held.enter_context(regions.use(caller, part, asked.entry)) for place, part in named.items()}


async def _run(service: Service, work: Work, held: ExitStack, request: Request, shared: Mapping[str, Use]) -> Outcome:
    """Do the work; where a client cut its segment short meanwhile, whatever came of it is refused."""
    try:
        outcome = await service.run(work, held, request.receive)
    except Exception as error:
        for use in shared.values():
            use.region.guarded.cut |= isinstance(error, errors.RegionRefused)  # by a worker, whose map is too short
            use.region.check()
        raise
    for use in shared.values():
        use.region.check()
    return outcome


async def _receive(inference: Inference, room: Room) -> None:
    """Put the tensor into its place, unless it is in shared memory."""
    asked = inference.request
    places = [place.view for place in room.sources.values()]
    if asked.data is None:
        await inference.read_into(places)
        return
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused as such
        np.frombuffer(places[0], asked.entry.dtype)[:] = np.array(asked.data)


def _answer(
    scope: Scope,
    asked: InferRequest,
    model: Model,
    room: Room,
    outcome: Outcome,
    timing: Timing,
    started: float,
    held: ExitStack,
    service: Service,
    trace: str | None,
) -> Response:
    """Build the answer, which takes over what is held."""
    projected = perf_counter()
    room.release_sources()
    (done,) = outcome.done.values()
    data = memoryview(b"") if asked.target else room.targets[asked.entry.name].view
    so_far = timing.with_stages(encode=0.0, total=ms(started, projected))
    payload, json_bytes = write_inference(asked, model, done, so_far, data, trace)
    now = perf_counter()
    timing = report_answer(scope, timing, encode=ms(projected, now), total=ms(started, now))
    service.statistics[model.name].answered(timing)
    headers = {"Server-Timing": server_timing(timing)}
    if json_bytes is not None:
        headers[LENGTH_HEADER] = str(json_bytes)
    return TensorAnswer(
        payload,
        held.pop_all(),
        lambda: room.retire(sources=False),
        service.pace,
        media_type=_JSON if json_bytes is None else _BINARY,
        headers=headers,
    )
