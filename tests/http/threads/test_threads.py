"""What takes its time runs on threads, so that neither the event loop nor what is quick waits for it."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from starlette.types import Message, Scope

from normtree.engine.cancel import Cancel
from normtree.engine.projector import Projector
from normtree.errors import Cancelled, DeadlineExceeded
from normtree.formats.contents import Entry
from normtree.http.body.receive import Body
from normtree.http.head.head import read_head
from normtree.http.head.query import read_query
from normtree.http.request.buffers import Room
from normtree.http.request.planning import plan_all
from normtree.http.request.service import Service
from normtree.http.threads.pool import Threads
from normtree.settings import Settings

HANG_S = 60.0
KINDS = 300
QUERY = read_query(b"norm=l1,linf&radius=1")


def entries(count: int) -> tuple[Entry, ...]:
    """Tensors of as many shapes."""
    return tuple(Entry(f"w{i}", "float32", (2 + i, 3), 4 * 3 * (2 + i)) for i in range(count))


@pytest.fixture
def service(projector: Projector) -> Iterator[Service]:
    found = Service.of(projector, Settings(inline_only=True, workers=2, arena_bytes=2**26))
    yield found
    found.close()


async def held(threads: Threads, count: int, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Do something while all threads of a pool are busy."""
    over, begun = threading.Event(), threading.Semaphore(0)

    def hold() -> None:
        begun.release()
        assert over.wait(HANG_S)

    with ExitStack() as nothing:
        holding = [asyncio.create_task(threads.run(hold, nothing)) for _ in range(count)]
        try:
            for _ in range(count):
                assert await asyncio.to_thread(begun.acquire, timeout=HANG_S)
            await asyncio.wait_for(work(), HANG_S)
        finally:
            over.set()
            await asyncio.gather(*holding)


def test_many_plans_wait_for_others_and_few_do_not(service: Service, projector: Projector) -> None:
    async def work() -> None:
        few = await service.plan(entries(4), QUERY)
        assert [plan.shape for plan in few] == [entry.shape for entry in entries(4)]
        with pytest.raises(DeadlineExceeded):
            await service.plan(entries(KINDS), QUERY.model_copy(update={"deadline_ms": 10.0}))

    async def main() -> None:
        await held(service.planning, 1, work)
        plans = await service.plan(entries(KINDS), QUERY)
        assert [str(plan) for plan in plans] == [
            str(plan) for plan in plan_all(projector, entries(KINDS), QUERY, Cancel())
        ]

    asyncio.run(main())


def test_plans_that_nobody_waits_for_are_not_made(projector: Projector) -> None:
    cancel = Cancel()
    cancel.set()
    for scope in ("tensor", "global"):
        with pytest.raises(Cancelled):
            plan_all(projector, entries(KINDS), QUERY.model_copy(update={"scope": scope}), cancel)


def test_a_lease_of_little_does_not_wait_for_those_of_much(service: Service) -> None:
    async def receive() -> Message:
        raise AssertionError("nothing of the body is wanted yet")

    async def lease(nbytes: int) -> Room:
        head = read_head([(b"content-length", str(nbytes).encode())])
        scope: Scope = {"type": "http", "query_string": b"", "state": {"client": "ada", "head": head}}
        tensors = (Entry("w", "float32", (nbytes // 4,), nbytes),)
        async with service.admission.admitted(scope):
            body = Body(receive, nbytes, service.pace)
            return await service.make_room(scope, body, tensors, tensors, (), stack)

    async def work() -> None:
        room = await lease(2**20)
        assert room.sources["w"].view.nbytes == 2**20
        much = asyncio.create_task(lease(2**24 + 2**20))
        await asyncio.sleep(0.05)
        assert not much.done()
        much.cancel()
        await asyncio.gather(much, return_exceptions=True)

    with ExitStack() as stack:
        asyncio.run(held(service.leasing_much, 2, work))
    assert service.projector.arena.leased_bytes == 0
