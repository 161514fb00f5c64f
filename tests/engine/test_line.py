"""The line to a worker process: answers, errors, and ends that vanish."""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from multiprocessing.connection import Connection
from threading import Thread, Timer
from time import monotonic, sleep
from typing import Any

import pytest

from normtree.engine.line import Answerer, Line, LineBroken, new_key
from normtree.engine.process import Process, pid_namespace
from normtree.engine.stop import Stopped


def serve(key: bytes, addresses: Connection) -> None:
    answerer = Answerer(key)
    addresses.send(answerer.address)
    answerer.answer()


def fail(error: Exception) -> None:
    raise error


def not_to_be_sent() -> object:
    return lambda: None


def nap(seconds: float) -> int:
    sleep(seconds)
    return os.getpid()


@pytest.fixture
def worker() -> Iterator[tuple[Line, Any]]:
    key = new_key()
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(key, theirs))
    process.start()
    theirs.close()
    line = Line(ours.recv(), key)
    yield line, process
    line.hang_up()
    line.close()
    process.join(10)
    assert process.exitcode is not None


def test_a_leaf_runs_in_the_worker(worker: tuple[Line, Any]) -> None:
    line, process = worker
    assert line.call(nap, (0.0,)) == process.pid
    assert line.call(max, (1, 2)) == 2


@pytest.mark.parametrize("error", [Stopped(), MemoryError("none left"), FileNotFoundError("segment"), KeyError(1)])
def test_what_a_leaf_raises_is_raised_here_and_breaks_nothing(worker: tuple[Line, Any], error: Exception) -> None:
    line, process = worker
    with pytest.raises(type(error)) as caught:
        line.call(fail, (error,))
    assert caught.value.args == error.args
    assert isinstance(error, Stopped) or f"in worker {process.pid}" in caught.value.__notes__[0]
    assert line.call(nap, (0.0,)) == process.pid


def test_an_outcome_that_cannot_be_sent_is_told(worker: tuple[Line, Any]) -> None:
    line, process = worker
    with pytest.raises(TypeError, match="not_to_be_sent"):
        line.call(not_to_be_sent, ())
    assert line.call(nap, (0.0,)) == process.pid


@pytest.mark.kills
def test_a_killed_worker_breaks_the_line_at_once(worker: tuple[Line, Any]) -> None:
    line, process = worker
    Timer(0.05, os.kill, [process.pid, signal.SIGKILL]).start()
    start = monotonic()
    with pytest.raises(LineBroken):
        line.call(nap, (150.0,))
    assert monotonic() - start < 60.0
    with pytest.raises(LineBroken):
        line.call(nap, (0.0,))


def test_hanging_up_breaks_a_call_in_another_thread(worker: tuple[Line, Any]) -> None:
    line, _ = worker
    broken: list[bool] = []

    def call() -> None:
        with pytest.raises(LineBroken):
            line.call(nap, (0.3,))
        broken.append(True)

    thread = Thread(target=call)
    thread.start()
    sleep(0.05)
    line.hang_up()
    thread.join(30)
    assert broken == [True]


def test_who_does_not_know_the_key_is_not_heard() -> None:
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(new_key(), theirs))
    process.start()
    theirs.close()  # a process that does not come up is then the pipe's end
    with pytest.raises(multiprocessing.AuthenticationError):
        Line(ours.recv(), new_key())
    process.join(10)
    assert process.exitcode == 1


@pytest.mark.kills
def test_a_process_is_known_to_be_gone(worker: tuple[Line, Any]) -> None:
    _, process = worker
    found = Process.find(process.pid, pid_namespace())
    assert found
    assert Process.find(process.pid, pid_namespace() + 1) is None
    assert found.end()
    assert found.end(), "a second time finds it gone"
