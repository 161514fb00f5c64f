"""The way of every request with tensors: check, open, plan, place, receive, work, write, answer."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from time import perf_counter

from starlette.requests import Request

from normtree.engine.plan import Plan
from normtree.engine.survivors import Survivors
from normtree.http.access.auth import client_name
from normtree.http.body.receive import Body
from normtree.http.head.head import head_of
from normtree.http.request.answer import TensorAnswer
from normtree.http.request.buffers import Room
from normtree.http.request.format import Arrival, Asked, FinishedRequest
from normtree.http.request.service import Service
from normtree.http.request.shared_memory_bodies import lend, watch
from normtree.http.request.work import Item, Work, ms
from normtree.http.threads.off_loop import FEW, off_loop
from normtree.http.watching.exchange import report, report_answer

Open = Callable[[Asked, Body], Awaitable[Arrival]]


async def serve(request: Request, service: Service, open_body: Open) -> TensorAnswer:
    """Check what can be checked before the data is read; then read, work and answer.

    Args:
        request: admitted, its body unread.
        service: does it.
        open_body: of a format, or of several by their media types; see `normtree.http.request.format.Format`.

    Returns:
        The answer, which holds what it sends until it is sent.

    Raises:
        NormtreeError: what is wrong with the request, or went wrong with the work.
    """
    started = perf_counter()
    service.check_ready()
    scope = request.scope
    asked = Asked(head_of(scope), scope["query_string"], service.settings, service.body_limit)
    arrival = await open_body(asked, Body.open(asked.head, request.receive, service.body_limit, service.pace))
    query, chosen = arrival.query, arrival.chosen
    plans = await service.plan(chosen, query)
    with ExitStack() as held:
        placing = perf_counter()
        lent = lend(request, service.regions, arrival, held)
        arriving = arrival.arriving
        room = await service.make_room(scope, arrival.rest, arriving, arrival.leaving, plans, held)
        if lent:
            room = replace(room, lent=lent)
        placed = perf_counter()
        await arrival.read_into([room.sources[entry.name].view for entry in arriving])
        received = perf_counter()
        items = await off_loop(lambda: _items(arrival, plans, room), short=len(chosen) <= FEW)
        work = Work(items, query, received, service.deadline_s(query.deadline_ms))
        doing = service.run(work, held, request.receive)
        outcome = await (watch(lent, doing) if lent else doing)
        timing = report(
            scope, outcome.timing, receive=ms(started, placing) + ms(placed, received), decode=outcome.decode_ms,
            queue=outcome.queue_ms, place=ms(placing, placed),
        )  # fmt: skip
        trace = service.traces.keep(client_name(scope), timing) if query.trace else None
        written = perf_counter()
        projected = FinishedRequest(arrival, room, outcome, timing, ms(started, written), trace)
        answer, few = arrival.answer, len(arrival.contents.entries) <= FEW
        payload = await off_loop(lambda: answer.write(projected), short=few)
        if not payload.needs_sources:
            room.release_sources()  # the answer may take its client long, and needs the targets only
        now = perf_counter()
        timing = report_answer(scope, timing, encode=ms(written, now), total=ms(started, now))
        headers = answer.timing_headers(projected, timing)
        headers.update(payload.headers)
        return TensorAnswer(
            payload,
            held.pop_all(),
            lambda: room.retire(sources=payload.needs_sources),
            service.pace,
            media_type=arrival.answer_type,
            headers=headers,
        )


def _items(arrival: Arrival, plans: Sequence[Plan], room: Room) -> tuple[Item, ...]:
    only_survivors = arrival.compact and not arrival.query.certificate  # which is of the whole projection
    return tuple(
        Item(
            entry, room.source(entry), room.target(entry), plan, arrival.compact,
            Survivors() if only_survivors else None,
        )
        for entry, plan in zip(arrival.chosen, plans, strict=True)
    )  # fmt: skip
