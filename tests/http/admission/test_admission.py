"""Admission: bytes, order, bounds of the queue and of clients, and draining."""

import asyncio
import math
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Scope

from normtree.engine.memory.arena import segment_bytes
from normtree.errors import BodyTooLarge, BytesExceeded, DeadlineExceeded, Drained, NotReady, QueueFull, RateExceeded
from normtree.http.admission import client_quota
from normtree.http.admission.admission import Admission
from normtree.http.admission.client_quota import Allowance, Quota
from normtree.http.admission.queue import Gate
from normtree.http.head.head import read_head
from normtree.settings import Settings

MIB = 2**20


def soon(seconds: float = 5) -> float:
    return asyncio.get_running_loop().time() + seconds


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(main())


def test_what_fits_goes_in_and_the_rest_waits_in_order() -> None:
    async def main() -> None:
        gate, order = Gate(10, 8), []

        async def visit(name: str, nbytes: int) -> None:
            await gate.enter(nbytes, soon())
            order.append(name)

        await visit("first", 6)
        tasks = [asyncio.create_task(visit(name, n)) for name, n in (("large", 10), ("small", 1), ("other", 4))]
        await settle()
        assert (order, gate.waiting, gate.inside_bytes) == (["first"], 3, 6)
        gate.leave(6)
        await settle()
        assert (order, gate.waiting) == (["first", "large"], 2)  # what is small does not overtake
        gate.leave(10)
        await asyncio.gather(*tasks)
        assert order == ["first", "large", "small", "other"]
        assert (gate.waiting, gate.inside_bytes) == (0, 5)

    run(main)


def test_queue_is_bounded() -> None:
    async def main() -> None:
        gate = Gate(10, 1)
        await gate.enter(10, soon())
        waiting = asyncio.create_task(gate.enter(1, soon()))
        await settle()
        with pytest.raises(QueueFull) as caught:
            await gate.enter(1, soon())
        assert (caught.value.limit, caught.value.retry_after_s) == (1, 1)
        gate.leave(10)
        await waiting

    run(main)


def test_who_gives_up_lets_others_in() -> None:
    async def main() -> None:
        gate = Gate(10, 8)
        await gate.enter(6, soon())
        late = asyncio.create_task(gate.enter(10, soon(0.05)))
        gone = asyncio.create_task(gate.enter(9, soon()))
        behind = asyncio.create_task(gate.enter(4, soon()))
        await settle()
        gone.cancel()
        with pytest.raises(DeadlineExceeded, match="no room for 10 bytes"):
            await late
        await behind
        assert (gate.waiting, gate.inside_bytes) == (0, 10)

    run(main)


def test_turn_that_comes_as_one_gives_up_is_not_lost() -> None:
    async def main() -> None:
        gate = Gate(10, 8)
        await gate.enter(10, soon())
        gone = asyncio.create_task(gate.enter(10, soon()))
        behind = asyncio.create_task(gate.enter(10, soon()))
        await settle()
        gate.leave(10)  # the turn of the next has come, and it has not run yet
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        await behind
        assert gate.inside_bytes == 10

    run(main)


@given(st.lists(st.tuples(st.integers(0, 10), st.integers(0, 4), st.booleans()), max_size=30))
def test_gate_never_holds_too_much_and_ends_empty(visits: list[tuple[int, int, bool]]) -> None:
    async def main() -> None:
        gate = Gate(10, len(visits))

        async def visit(nbytes: int, steps: int) -> None:
            await gate.enter(nbytes, soon())
            try:
                assert gate.inside_bytes <= 10
                for _ in range(steps):
                    await asyncio.sleep(0)
            finally:
                gate.leave(nbytes)

        tasks = [asyncio.create_task(visit(nbytes, steps)) for nbytes, steps, _ in visits]
        await asyncio.sleep(0)
        for task, (_, _, leaves) in zip(tasks, visits, strict=True):
            if leaves:
                task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(error) for error in done} <= {type(None), asyncio.CancelledError}
        assert (gate.waiting, gate.inside_bytes) == (0, 0)

    run(main)


def test_rate_refills_with_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(client_quota, "monotonic", lambda: now)
    client = Allowance("ada", Quota(rate_per_s=0.25, burst=2, bytes_limit=None))
    client.take(1)
    client.take(1)
    with pytest.raises(RateExceeded, match=r"key ada may ask 0\.25 times a second, 2 at once") as caught:
        client.take(1)
    assert (caught.value.retry_after_s, caught.value.pointer, caught.value.limit) == (4, "Authorization", 0.25)
    now += 3.9
    with pytest.raises(RateExceeded):
        client.take(1)
    now += 0.2
    client.take(1)
    now += 1e6
    client.take(1)
    client.take(1)
    with pytest.raises(RateExceeded):
        client.take(1)


def test_bytes_in_flight_are_bounded() -> None:
    client = Allowance("ada", Quota(rate_per_s=None, burst=1, bytes_limit=10))
    with pytest.raises(BodyTooLarge, match="key ada may have 10 bytes, and this request wants 11") as never:
        client.take(11)  # the first of all
    assert (never.value.status, never.value.limit, never.value.got) == (413, 10, 11)
    client.take(10)
    with pytest.raises(BytesExceeded, match="may have 10, has 10, wanted 1 more") as caught:
        client.take(1)
    assert (caught.value.pointer, caught.value.limit, caught.value.got) == ("Content-Length", 10, 11)
    client.give_back(10)
    client.take(6)
    client.take_more(2, 6)
    with pytest.raises(BytesExceeded):
        client.take(3)
    with pytest.raises(BodyTooLarge, match="wants 11"):
        client.take_more(3, 8)
    client.take(2)


def scope(length: int | str, query: str = "", client: str = "anonymous") -> Scope:
    head = read_head([(b"content-length", str(length).encode())])
    return {"type": "http", "query_string": query.encode(), "state": {"client": client, "head": head}}


def admission(**given: Any) -> Admission:
    return Admission(Settings(inline_only=True, arena_bytes=16 * MIB, **given))


@pytest.mark.parametrize("length", [0, 1, MIB, MIB + 1, 8 * MIB])
def test_bytes_are_those_the_arena_sets_aside(length: int) -> None:
    async def main() -> None:
        found = admission()
        async with found.admitted(scope(length)):
            assert found.inside_bytes == 2 * segment_bytes(length)
            assert found.in_flight == 1
        assert (found.inside_bytes, found.in_flight) == (0, 0)

    run(main)


@pytest.mark.parametrize("length", ["", "x", "²", "-1", 17 * MIB, "9" * 5000])
def test_what_a_route_will_refuse_waits_for_nothing(length: int | str) -> None:
    async def main() -> None:
        found = admission()
        async with found.admitted(scope(8 * MIB)), found.admitted(scope(length)):
            assert found.inside_bytes == 16 * MIB

    run(main)


def test_what_just_fits_is_not_admitted_for_nothing() -> None:
    async def main() -> None:
        found = admission()
        async with found.admitted(scope(8 * MIB + 128)):  # two segments of it would be 20 MiB; its data alone is less
            assert found.inside_bytes == 16 * MIB
        limited = admission(key_bytes_limit=12 * MIB)
        async with limited.admitted(scope(8 * MIB)):
            assert limited.inside_bytes == 12 * MIB
        with pytest.raises(BodyTooLarge, match="may have 12582912 bytes, and this request wants 14680064"):
            async with limited.admitted(scope(13 * MIB)):
                pytest.fail("it has no room beside its own body")

    run(main)


@pytest.mark.parametrize("wanted", [0, MIB, 3 * MIB, 16 * MIB])
def test_bytes_are_settled_when_they_are_known(wanted: int) -> None:
    async def main() -> None:
        found, asked = admission(key_bytes_limit=16 * MIB), scope(MIB)
        async with found.admitted(asked):
            assert found.inside_bytes == 2 * MIB
            assert await found.settle(asked, wanted) == 0.0
            assert found.inside_bytes == wanted
            other, left = scope(0), 16 * MIB - wanted
            if not left:
                with pytest.raises(BytesExceeded):
                    async with found.admitted(other):
                        pytest.fail("all is used up")
                return
            async with found.admitted(other):
                await found.settle(other, left)
                assert found.inside_bytes == 16 * MIB
                with pytest.raises(BytesExceeded):
                    await found.settle(asked, wanted + 1)
        assert found.inside_bytes == 0
        async with found.admitted(scope(8 * MIB)):
            assert found.inside_bytes == 16 * MIB

    run(main)


def test_who_turns_out_to_want_more_waits_with_nothing_in_hand() -> None:
    async def main() -> None:
        found = admission()
        first, second, done = scope(3 * MIB), scope(3 * MIB), []

        async def visit(name: str, asked: Scope) -> None:
            async with found.admitted(asked):
                await asyncio.sleep(0.01)
                assert await found.settle(asked, 14 * MIB) >= 0
                assert found.inside_bytes == 14 * MIB
                done.append(name)

        await asyncio.wait_for(asyncio.gather(visit("first", first), visit("second", second)), 20)
        assert sorted(done) == ["first", "second"]
        assert (found.inside_bytes, found.in_flight, found.waiting) == (0, 0, 0)
        assert max(asked["state"].get("queued_ms", 0.0) for asked in (first, second)) > 0

    run(main)


def test_who_waits_for_more_and_gives_up_leaves_nothing_behind() -> None:
    async def main() -> None:
        found, asked = admission(deadline_s=0.05), scope(MIB)
        async with found.admitted(scope(4 * MIB)):
            with pytest.raises(DeadlineExceeded):
                async with found.admitted(asked):
                    await found.settle(asked, 12 * MIB)
            assert found.inside_bytes == 8 * MIB
            async with found.admitted(asked):
                await found.settle(asked, 17 * MIB)  # which the lease will refuse
                assert found.inside_bytes == 10 * MIB
        assert found.inside_bytes == 0

    run(main)


@pytest.mark.parametrize(("deadline_ms", "bound_s"), [("50", 60.0), ("x", 0.05), ("-3", 60.0), ("inf", 0.05)])
def test_waits_no_longer_than_its_deadline(deadline_ms: str, bound_s: float) -> None:
    async def main() -> None:
        found = admission(deadline_s=bound_s)
        async with found.admitted(scope(8 * MIB)):
            began = asyncio.get_running_loop().time()
            with pytest.raises(DeadlineExceeded):
                async with found.admitted(scope(1, f"radius=1&deadline_ms={deadline_ms}")):
                    pytest.fail("there was no room")
            assert asyncio.get_running_loop().time() - began < 30
        assert found.in_flight == 0

    run(main)


def test_clients_have_quotas_of_their_own() -> None:
    async def main() -> None:
        found = admission(key_rate_per_s=0.001, key_burst=1)
        async with found.admitted(scope(1, client="ada")), found.admitted(scope(1, client="bob")):
            with pytest.raises(RateExceeded):
                async with found.admitted(scope(1, client="ada")):
                    pytest.fail("the rate was used up")
        assert math.isclose(found.inside_bytes, 0)

    run(main)


def test_drain_refuses_finishes_and_cancels() -> None:
    async def main() -> None:
        found, ended = admission(), []
        done, never = asyncio.Event(), asyncio.Event()

        async def request(name: str, until: asyncio.Event) -> None:
            try:
                async with found.admitted(scope(8 * MIB)):
                    await until.wait()
                    ended.append(name)
            except Drained as error:
                ended.append(f"{name}: {error}")

        tasks = [asyncio.create_task(request(*case)) for case in (("a", done), ("b", done), ("c", never))]
        await settle()
        draining = asyncio.create_task(found.drain(0.2))
        await settle()
        with pytest.raises(NotReady, match="the service is draining"):
            async with found.admitted(scope(1)):
                pytest.fail("nothing new is taken")
        done.set()
        await draining
        await asyncio.gather(*tasks)
        assert ended == ["a", "b", "c: the service is draining, and its time is up"]
        assert (found.in_flight, found.inside_bytes) == (0, 0)

    run(main)


def test_cancelled_request_is_not_taken_for_a_drained_one() -> None:
    async def main() -> None:
        found = admission()

        async def request() -> None:
            async with found.admitted(scope(1)):
                await asyncio.sleep(60)

        task = asyncio.create_task(request())
        await settle()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert found.in_flight == 0

    run(main)
