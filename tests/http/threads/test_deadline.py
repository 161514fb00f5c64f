"""Deadlines: what is there at once is returned, what is late is cancelled, and all else is as if it was awaited."""

import asyncio

import pytest

from normtree.http.threads.deadline import until

PAST_S, FAR_S = 0.0, 1e9


async def several_waits() -> str:
    for _ in range(3):
        await asyncio.sleep(0)
    await asyncio.sleep(0.001)
    return "came"


async def never(ended: list[str]) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        ended.append("cancelled")


async def failure(waits: int) -> None:
    for _ in range(waits):
        await asyncio.sleep(0)
    raise ValueError("broken")


async def at_once() -> str:
    return "was there"


def test_what_is_there_is_returned_whatever_the_time() -> None:
    assert asyncio.run(until(PAST_S, at_once())) == "was there"


def test_what_comes_in_time_is_returned() -> None:
    assert asyncio.run(until(FAR_S, several_waits())) == "came"


def test_what_is_late_is_cancelled() -> None:
    ended: list[str] = []
    with pytest.raises(TimeoutError):
        asyncio.run(until(PAST_S, never(ended)))
    assert ended == ["cancelled"]


@pytest.mark.parametrize("waits", [0, 2])
def test_failures_pass(waits: int) -> None:
    with pytest.raises(ValueError, match="broken"):
        asyncio.run(until(FAR_S, failure(waits)))


def test_a_cancellation_reaches_what_is_awaited() -> None:
    async def main() -> None:
        ended: list[str] = []
        waiting = asyncio.create_task(until(FAR_S, never(ended)))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert ended == ["cancelled"]

    asyncio.run(main())
