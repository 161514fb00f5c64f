"""Lanes: an executor made of workers that take one call at a time, each driven by a thread of this process."""

import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from threading import Thread
from time import monotonic
from typing import Any, Protocol, TypeVar, cast

from normtree.engine.executor import Answers, Leaf
from normtree.engine.memory.stop import Stop, Stopped
from normtree.errors import WorkersLost

R = TypeVar("R")

_ATTEMPTS = 4
_POLL_S = 0.05
_GRACE_S = 2.0  # for a piece of work that is longer than it should be

logger = logging.getLogger(__name__)


class LaneLost(Exception):
    """The worker of a lane has ended in a call, and no trace of it runs any more."""


class Lane(Protocol):
    """One worker."""

    def call(self, leaf: Leaf[Any], args: tuple[Any, ...], stop: Stop) -> Any:
        """Run a leaf and return what it returns; a lane whose worker is lost finds another one first.

        Raises:
            LaneLost: the worker was lost meanwhile.
            Stopped: the stop came before the end.
            Exception: what the leaf raised.
        """
        ...

    def kill(self) -> None:
        """End the worker, so that the call under way ends; where that cannot be done, do nothing."""
        ...

    def close(self) -> None:
        """End for good."""
        ...


@dataclass(frozen=True)
class _Call:
    """One call on its way through a lane, and where its outcome goes."""

    leaf: Leaf[Any]
    args: tuple[Any, ...]
    index: int
    stop: Stop
    outcomes: "SimpleQueue[_Outcome]"
    attempt: int = 0


@dataclass(frozen=True)
class _Outcome:
    call: _Call
    value: Any = None
    error: BaseException | None = None


class Lanes:
    """An executor over lanes: calls wait in one queue, and each lane takes the next one when it is free.

    Where the workers are threads of this process, the asker's own is one of them. If it only waited, it would leave
    its core to a thread that it has just woken, and which the scheduler, for phases of milliseconds, then runs beside
    another one on that core.

    Args:
        lanes: at least one.
        in_process: whether their workers are this process.
    """

    def __init__(self, lanes: Sequence[Lane], *, in_process: bool) -> None:
        """Start a thread for each lane."""
        self.in_process = in_process
        self._lanes = tuple(lanes)
        self._queue: SimpleQueue[_Call | None] = SimpleQueue()
        self._current: dict[int, _Call] = {}
        self._threads = [
            Thread(target=self._serve, args=(number, lane), name=f"normtree-lane-{number}", daemon=True)
            for number, lane in enumerate(lanes)
        ]
        for thread in self._threads:
            thread.start()

    def run(
        self,
        leaf: Leaf[R],
        calls: Iterable[tuple[Any, ...]],
        *,
        workers: int,
        stop: Stop,
    ) -> Answers[R]:
        """Run one phase; see `normtree.engine.executor.Executor.run`."""
        phase = _Phase(self, stop)
        try:
            for index, args in enumerate(calls):
                call = _Call(leaf, args, index, stop, phase.outcomes)
                if self.in_process and phase.is_busy(workers - 1):
                    phase.run_here(self._lanes[0], call)
                    continue
                phase.make_room(workers)
                self._queue.put(call)
                phase.running += 1
            phase.make_room(1)
        except BaseException:
            stop.now()
            phase.settle()
            raise
        return Answers(tuple(cast(R, phase.values[index]) for index in sorted(phase.values)), phase.retries)

    def close(self) -> None:
        """End the lanes, when the calls they are at have ended."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()
        for lane in self._lanes:
            lane.close()

    def repeat(self, call: _Call) -> None:
        """Queue a call once more."""
        self._queue.put(replace(call, attempt=call.attempt + 1))

    def kill(self, outcomes: "SimpleQueue[_Outcome]") -> None:
        """End the workers that are at calls of a phase."""
        for number, call in list(self._current.items()):
            if call.outcomes is outcomes:
                logger.warning("a leaf went on after its time; its worker is ended")
                self._lanes[number].kill()

    def _serve(self, number: int, lane: Lane) -> None:
        while (call := self._queue.get()) is not None:
            self._current[number] = call
            outcome = _attempt(lane, call)
            del self._current[number]
            call.outcomes.put(outcome)


def _attempt(lane: Lane, call: _Call) -> _Outcome:
    try:
        call.stop.check()
        return _Outcome(call, lane.call(call.leaf, call.args, call.stop))
    except BaseException as error:
        return _Outcome(call, error=error)


class _Phase:
    """The calls of one phase: how many are under way, what they returned."""

    def __init__(self, lanes: Lanes, stop: Stop) -> None:
        self.outcomes: SimpleQueue[_Outcome] = SimpleQueue()
        self.running = 0
        self.retries = 0
        self.values: dict[int, Any] = {}
        self._lanes = lanes
        self._stop = stop

    def make_room(self, workers: int) -> None:
        """Wait until fewer than ``workers`` calls are under way.

        Raises:
            Exception: what one of them raised.
        """
        while self.running >= workers:
            self._take(self._next())

    def is_busy(self, workers: int) -> bool:
        """Take what has ended, without waiting, and tell whether so many calls are still under way."""
        with suppress(Empty):
            while True:
                self._take(self.outcomes.get_nowait())
        return self.running >= workers

    def run_here(self, lane: Lane, call: _Call) -> None:
        """Run a call in this thread."""
        self.running += 1
        self._take(_attempt(lane, call))

    def settle(self) -> None:
        """Wait until no call is under way, whatever they come to."""
        while self.running:
            self._next()
            self.running -= 1

    def _take(self, outcome: _Outcome) -> None:
        call, error = outcome.call, outcome.error
        if isinstance(error, LaneLost) and not self._stop.has_passed:
            if call.attempt + 1 < _ATTEMPTS:
                self.retries += 1
                self._lanes.repeat(call)
                return
            self.running -= 1
            raise WorkersLost(f"workers died in each of {_ATTEMPTS} attempts", retry_after_s=1) from error
        self.running -= 1
        if isinstance(error, LaneLost):
            raise Stopped
        if error:
            raise error
        self.values[call.index] = outcome.value

    def _next(self) -> _Outcome:
        """Wait for the next outcome; end workers that go on after their time."""
        give_up_s: float | None = None
        while True:
            try:
                return self.outcomes.get(timeout=_POLL_S)
            except Empty:
                if self._stop.has_passed:
                    give_up_s = give_up_s or monotonic() + _GRACE_S
                    if monotonic() > give_up_s:
                        self._lanes.kill(self.outcomes)
                        give_up_s = None
