"""``POST /v1/project``: tensors in, their projections out."""

from collections.abc import Mapping
from contextlib import ExitStack
from time import perf_counter

from fastapi import APIRouter, Request, Response

from normtree import errors
from normtree.engine.plan import Plan
from normtree.engine.survivors import Survivors
from normtree.engine.timing import Timing
from normtree.formats.contents import Entry
from normtree.http import media
from normtree.http.answer import TensorAnswer
from normtree.http.arrival import Arrival, open_arrival
from normtree.http.auth import client_name
from normtree.http.exchange import report, report_answer
from normtree.http.head import head_of
from normtree.http.off_loop import FEW, off_loop
from normtree.http.problems import problem_responses
from normtree.http.query import ProjectQuery, query_parameters, read_query
from normtree.http.reply import Reply, answer_headers, answer_type, check_names, write
from normtree.http.report import timing_headers
from normtree.http.room import Room
from normtree.http.selection import select
from normtree.http.service import Service
from normtree.http.tensor_problems import TENSOR_PROBLEMS
from normtree.http.traces import HEADER as TRACE_HEADER
from normtree.http.work import Item, Outcome, Work, ms

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_HEADERS = {
    "Server-Timing": "Stages of the work, in milliseconds.",
    "X-Normtree-Timing": "The timing as JSON: stages, levels, work, span, wall, speed-up, overhead.",
    "X-Normtree-Certificate": "With certificate=1, evidence as JSON, where one tensor or one ball is told of.",
    "X-Normtree-Converted": "What was changed on the way in: fortran-order, big-endian.",
    TRACE_HEADER: "With trace=1, the path at which the trace is found for ten minutes.",
}
_ANSWERS = {
    200: {
        "description": "The projections: the tensors' shapes and dtypes, C order, little-endian.",
        "content": dict.fromkeys(media.WRITABLE, _BINARY),
        "headers": {name: {"description": text, "schema": {"type": "string"}} for name, text in _HEADERS.items()},
    },
    **TENSOR_PROBLEMS,
    **problem_responses(errors.NotAcceptable),
}
_REQUEST = {
    "parameters": query_parameters(),
    "requestBody": {
        "required": True,
        "description": "A tensor as .npy, or several as safetensors.",
        "content": dict.fromkeys(media.READABLE, _BINARY),
    },
}


def project_router(service: Service) -> APIRouter:
    """Make the router of projections."""
    router = APIRouter(tags=["projection"])

    @router.post("/v1/project", response_class=Response, responses=_ANSWERS, openapi_extra=_REQUEST)
    async def project(request: Request) -> Response:
        """Project the tensors in the body onto the mixed-norm balls that the query describes."""
        return await _project(request, service)

    return router


async def _project(request: Request, service: Service) -> Response:
    """Check what can be checked before the data is read; then read, work and answer."""
    started = perf_counter()
    service.check_ready()
    query = read_query(request.scope["query_string"])
    arrival = await open_arrival(request, service.settings)
    media_type = answer_type(head_of(request.scope), arrival, query)
    chosen = select(arrival.contents, query, service.settings)
    check_names(arrival.contents, chosen, query)
    plans = await service.plan(chosen, query)
    with ExitStack() as held:
        asked = perf_counter()
        entries = arrival.contents.entries
        room = await service.make_room(request.scope, arrival.rest, entries, chosen, plans, held)
        leased = perf_counter()
        await arrival.read_into([room.sources[entry.name].view for entry in entries])
        received = perf_counter()
        items = await off_loop(lambda: _items(chosen, plans, room, query), short=len(chosen) <= FEW)
        work = Work(items, query, received, service.deadline_s(query.deadline_ms))
        outcome = await service.run(work, held, request.receive)
        receive, place = ms(started, asked) + ms(leased, received), ms(asked, leased)
        queue, decode = outcome.queue_ms, outcome.decode_ms
        timing = report(request.scope, outcome.timing, receive=receive, decode=decode, queue=queue, place=place)
        traced = _traced(request, service, timing) if query.trace else {}
        projected = perf_counter()
        reply = await off_loop(lambda: write(media_type, arrival, room, outcome), short=len(entries) <= FEW)
        now = perf_counter()
        timing = report_answer(request.scope, timing, encode=ms(projected, now), total=ms(started, now))
        return _answer(media_type, arrival, room, outcome, timing, reply, held, traced, service)


def _traced(request: Request, service: Service, timing: Timing) -> dict[str, str]:
    """Keep a request's trace, and return the header that tells where."""
    return {TRACE_HEADER: service.traces.keep(client_name(request.scope), timing)}


def _items(chosen: tuple[Entry, ...], plans: tuple[Plan, ...], room: Room, query: ProjectQuery) -> tuple[Item, ...]:
    compact = query.output == "compact"
    only_survivors = compact and not query.certificate  # which is of the whole projection
    return tuple(
        Item(entry, room.source(entry), room.target(entry), plan, compact, Survivors() if only_survivors else None)
        for entry, plan in zip(chosen, plans, strict=True)
    )


def _answer(
    media_type: str,
    arrival: Arrival,
    room: Room,
    outcome: Outcome,
    timing: Timing,
    reply: Reply,
    held: ExitStack,
    traced: Mapping[str, str],
    service: Service,
) -> TensorAnswer:
    """Build the answer, which takes over what is held."""
    if not reply.needs_sources:
        room.release_sources()  # the answer may take its client long, and needs the targets only
    return TensorAnswer(
        reply.payload,
        held.pop_all(),
        lambda: room.retire(sources=reply.needs_sources),
        service.pace,
        media_type=media_type,
        headers={**timing_headers(timing, outcome.timings), **answer_headers(arrival, outcome), **traced},
    )
