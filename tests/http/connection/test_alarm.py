"""Alarms: they ring once, when they were last set to, and not where they were put off."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import uvloop

from normtree.http.connection.alarm import Alarm

AFTER_S = 0.05
HANG_S = 30


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def test_rings_once_and_can_be_set_again() -> None:
    async def main() -> None:
        loop, rung = asyncio.get_running_loop(), asyncio.Event()
        alarm = Alarm(loop, AFTER_S, rung.set)
        for _ in range(2):
            began = loop.time()
            alarm.set()
            assert alarm.is_set
            await asyncio.wait_for(rung.wait(), HANG_S)
            assert loop.time() - began >= AFTER_S - 1e-3  # the loop counts milliseconds
            assert not alarm.is_set
            rung.clear()

    run(main)


def test_counts_from_when_it_was_last_set() -> None:
    async def main() -> None:
        loop, rung = asyncio.get_running_loop(), asyncio.Event()
        alarm = Alarm(loop, AFTER_S, rung.set)
        alarm.set()
        for _ in range(4):
            await asyncio.sleep(AFTER_S / 2)
            alarm.put_off()
            last = loop.time()
            alarm.set()
        await asyncio.wait_for(rung.wait(), HANG_S)
        assert loop.time() - last >= AFTER_S - 1e-3

    run(main)


def test_does_not_ring_when_put_off_or_ended() -> None:
    async def main() -> None:
        rung: list[str] = []
        put_off, ended, kept = (
            Alarm(asyncio.get_running_loop(), AFTER_S, partial(rung.append, name))
            for name in ("put off", "ended", "kept")
        )
        for alarm in (put_off, ended, kept):
            alarm.set()
        put_off.put_off()
        ended.end()
        while kept.is_set:
            await asyncio.sleep(AFTER_S)
        await asyncio.sleep(AFTER_S)
        assert rung == ["kept"]

    run(main)
