"""The thread for what may hang: it holds nobody up but those who wait for it, and those not for ever."""

import asyncio
import threading
from functools import partial
from operator import floordiv

import pytest

from normtree.errors import DeadlineExceeded, QueueFull
from normtree.http.threads.slow_calls import Aside


def test_work_is_done_in_turn_and_its_errors_are_raised() -> None:
    async def use(aside: Aside) -> list[object]:
        return await asyncio.gather(*(aside.run(partial(floordiv, 6, i)) for i in (1, 2, 0, 3)), return_exceptions=True)

    one, two, failed, three = asyncio.run(use(Aside("test", 8, 60)))
    assert (one, two, three) == (6, 3, 2)
    assert isinstance(failed, ZeroDivisionError)


def test_work_that_hangs_holds_up_no_loop_and_no_queue() -> None:
    hung, done = threading.Event(), []

    async def use(aside: Aside) -> None:
        with pytest.raises(DeadlineExceeded, match=r"longer than 0\.2 s"):
            await aside.run(hung.wait)
        waiting = [asyncio.ensure_future(aside.run(lambda: done.append(1))) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFull, match="at most 2 such requests may wait"):
            await aside.run(lambda: done.append(2))
        assert all(
            isinstance(each, DeadlineExceeded) for each in await asyncio.gather(*waiting, return_exceptions=True)
        )
        hung.set()
        assert await aside.run(lambda: 3) == 3

    asyncio.run(use(Aside("test", 2, 0.2)))
    assert done == []  # nobody waited for it any more
