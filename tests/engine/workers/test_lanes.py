"""Lanes: phases of calls over real threads, with leaves that fail, stop and get lost."""

from collections.abc import Iterator
from pathlib import Path
from threading import Barrier, Lock, get_ident
from time import monotonic_ns, sleep
from typing import Any

import pytest

from normtree.engine.executor import Leaf
from normtree.engine.memory.arena import Arena
from normtree.engine.memory.slate import Slate
from normtree.engine.memory.stop import Stop, Stopped
from normtree.engine.workers.lanes import LaneLost, Lanes
from normtree.errors import WorkersLost


class Lane:
    """A lane on its own thread, that loses its worker as often as it is told."""

    def __init__(self, losses: int = 0) -> None:
        self.losses = losses
        self.at_work = 0
        self._lock = Lock()

    def call(self, leaf: Leaf[Any], args: tuple[Any, ...], stop: Stop) -> Any:
        with self._lock:
            self.losses -= 1
            if self.losses >= 0:
                raise LaneLost
            self.at_work += 1
        try:
            return leaf(*args)
        finally:
            self.at_work -= 1

    def kill(self) -> None:
        """A thread cannot be."""

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def stop(tmp_path: Path) -> Iterator[Stop]:
    with Slate(Arena(1 << 20, tmp_path), [], monotonic_ns() + 10**11) as slate:
        yield slate.stop


@pytest.mark.parametrize(("lanes", "workers"), [(1, 1), (3, 1), (3, 2), (3, 3), (2, 5)])
def test_answers_come_in_the_order_of_the_calls(stop: Stop, lanes: int, workers: int) -> None:
    def leaf(number: int) -> int:
        sleep(0.001 * (number % 3))
        return number * number

    pool = Lanes([Lane() for _ in range(lanes)], in_process=True)
    answers = pool.run(leaf, ((n,) for n in range(20)), workers=workers, stop=stop)
    pool.close()
    assert answers.values == tuple(n * n for n in range(20))
    assert answers.retries == 0


def test_no_more_calls_are_under_way_than_workers(stop: Stop) -> None:
    lanes = [Lane() for _ in range(4)]

    def leaf() -> int:
        sleep(0.002)
        return sum(lane.at_work for lane in lanes)

    pool = Lanes(lanes, in_process=True)
    assert max(pool.run(leaf, [()] * 20, workers=2, stop=stop).values) <= 2
    pool.close()


def test_a_call_whose_worker_is_lost_is_repeated_and_counted(stop: Stop) -> None:
    pool = Lanes([Lane(losses=2), Lane()], in_process=True)
    answers = pool.run(lambda n: n, [(n,) for n in range(50)], workers=2, stop=stop)
    pool.close()
    assert answers.values == tuple(range(50))
    assert answers.retries == 2


def test_a_call_that_loses_every_worker_is_given_up(stop: Stop) -> None:
    pool = Lanes([Lane(losses=100)], in_process=True)
    with pytest.raises(WorkersLost, match="in each of 4 attempts"):
        pool.run(lambda: None, [()], workers=1, stop=stop)
    pool.close()


def test_an_error_ends_what_else_is_under_way(stop: Stop) -> None:
    lanes = [Lane(), Lane()]

    def leaf(number: int) -> None:
        if number == 1:
            raise ZeroDivisionError("a bug")
        while True:
            stop.check()
            sleep(0.001)

    pool = Lanes(lanes, in_process=True)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        pool.run(leaf, [(0,), (1,), (2,)], workers=2, stop=stop)
    assert [lane.at_work for lane in lanes] == [0, 0]
    pool.close()


def test_the_stop_ends_calls_and_begins_no_others(stop: Stop) -> None:
    begun: list[int] = []

    def leaf(number: int) -> None:
        begun.append(number)
        stop.set_ns(monotonic_ns() + 20_000_000)
        while True:
            stop.check()
            sleep(0.001)

    pool = Lanes([Lane()], in_process=False)
    with pytest.raises(Stopped):
        pool.run(leaf, [(0,), (1,)], workers=2, stop=stop)
    pool.close()
    assert begun == [0]


def test_the_asker_s_thread_takes_part_where_workers_are_threads(stop: Stop) -> None:
    together = Barrier(2, timeout=60)

    def leaf() -> int:
        together.wait()
        return get_ident()

    pool = Lanes([Lane()], in_process=True)
    answers = pool.run(leaf, [(), ()], workers=2, stop=stop)
    pool.close()
    assert get_ident() in answers.values
    assert len(set(answers.values)) == 2
