"""The watermark: threads and coroutines that wait for bytes."""

import asyncio
import threading
from time import monotonic

import pytest

from normtree.engine.watermark import Watermark


def test_it_only_rises() -> None:
    mark = Watermark()
    mark.advance(10)
    mark.advance(5)
    assert mark.nbytes == 10


def test_a_thread_waits_until_the_bytes_are_ready() -> None:
    mark = Watermark()
    threading.Timer(0.02, mark.advance, [10]).start()
    assert mark.wait(10, monotonic() + 60)
    assert mark.nbytes == 10


def test_a_thread_waits_no_longer_than_it_wants() -> None:
    mark = Watermark()
    mark.advance(9)
    assert not mark.wait(10, monotonic() + 0.01)
    assert mark.wait(9, monotonic())


def test_who_waits_for_more_gets_the_first_error() -> None:
    mark = Watermark()
    mark.advance(10)
    threading.Timer(0.02, mark.fail, [ConnectionError("hung up")]).start()
    with pytest.raises(ConnectionError, match="hung up"):
        mark.wait(11)
    mark.fail(ValueError("later"))
    with pytest.raises(ConnectionError, match="hung up"):
        mark.wait(11)
    assert mark.wait(10)


def test_a_coroutine_waits_for_what_a_thread_does() -> None:
    async def follow() -> list[int]:
        mark, seen = Watermark(), []
        thread = threading.Thread(target=lambda: [mark.advance(n) for n in range(1, 101)])
        thread.start()
        for wanted in (1, 50, 100):
            await asyncio.wait_for(mark.reached(wanted), 60)
            seen.append(wanted)
        thread.join()
        threading.Timer(0.02, mark.fail, [ConnectionError("hung up")]).start()
        with pytest.raises(ConnectionError, match="hung up"):
            await asyncio.wait_for(mark.reached(101), 60)
        return seen

    assert asyncio.run(follow()) == [1, 50, 100]


def test_a_coroutine_can_stop_waiting() -> None:
    async def give_up() -> None:
        mark = Watermark()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(mark.reached(1), 0.01)
        mark.advance(1)
        await mark.reached(1)

    asyncio.run(give_up())
