"""The line to a worker process: answers, errors, and ends that vanish."""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from socket import AF_UNIX, SOCK_STREAM, socket
from tempfile import TemporaryDirectory
from threading import Thread, Timer
from time import monotonic, sleep
from typing import Any

import pytest

from normtree.engine.cluster import line as line_module
from normtree.engine.cluster.line import Answerer, Line, LineBroken, new_key
from normtree.engine.cluster.process import Process, pid_namespace
from normtree.engine.memory.stop import Stopped


def serve(key: bytes, folder: str, addresses: Connection) -> None:
    answerer = Answerer(key, folder)
    addresses.send(answerer.address)
    answerer.answer()


OTHER_WORKER = """
import os, socket, sys, time
os.setuid(65534)
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print("listening", flush=True)
time.sleep(300)
"""
OTHER_ASKER = """
import os, socket, sys
os.setuid(65534)
try:
    end = socket.socket(socket.AF_UNIX)
    end.connect(sys.argv[1])
    print(end.recv(1))
except OSError as error:
    print(type(error).__name__)
"""


def fail(error: Exception) -> None:
    raise error


def not_to_be_sent() -> object:
    return lambda: None


def nap(seconds: float) -> int:
    sleep(seconds)
    return os.getpid()


@pytest.fixture
def folder() -> Iterator[str]:
    """One with a short path, whose sockets all go."""
    with TemporaryDirectory(prefix="ntl-") as name:
        yield name
        assert list(Path(name).iterdir()) == []


@pytest.fixture
def answerer(folder: str) -> Iterator[tuple[str, bytes, Any]]:
    """The address of an answering process, the key, and the process."""
    key = new_key()
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(key, folder, theirs))
    process.start()
    theirs.close()  # a process that does not come up is then the pipe's end
    yield ours.recv(), key, process
    process.join(10)
    assert process.exitcode is not None


@pytest.fixture
def worker(answerer: tuple[str, bytes, Any]) -> Iterator[tuple[Line, Any]]:
    address, key, process = answerer
    line = Line(address, key)
    yield line, process
    line.hang_up()
    line.close()


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


def test_who_is_not_the_asker_is_hung_up_on_and_costs_nothing(answerer: tuple[str, bytes, Any]) -> None:
    """Some say nothing, some something else, one does not know the key: whoever does is answered after all of them."""
    address, key, process = answerer
    for said in (b"", b"\0" * 64, b"\xff" * 4):
        with socket(AF_UNIX, SOCK_STREAM) as other:
            other.connect(address)
            other.sendall(said)
    with pytest.raises(LineBroken):
        Line(address, new_key())
    line = Line(address, key)
    assert line.call(nap, (0.0,)) == process.pid
    line.hang_up()
    line.close()


def test_who_says_nothing_is_not_waited_for(answerer: tuple[str, bytes, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    address, key, process = answerer
    with socket(AF_UNIX, SOCK_STREAM) as silent:
        silent.connect(address)
        monkeypatch.setattr(line_module, "_PROOF_S", 120)  # of the asker, who waits until the silent one is hung up on
        line = Line(address, key)
    assert line.call(nap, (0.0,)) == process.pid
    line.hang_up()
    line.close()


def test_an_asker_does_not_wait_for_one_that_does_not_answer(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_module, "_PROOF_S", 1)
    address = f"{folder}/silent"
    with socket(AF_UNIX, SOCK_STREAM) as silent:
        silent.bind(address)
        silent.listen()
        with pytest.raises(LineBroken):
            Line(address, new_key())
    Path(address).unlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_a_worker_of_another_user_is_refused(folder: str) -> None:
    address = f"{folder}/other"
    os.chmod(folder, 0o777)
    with subprocess.Popen([sys.executable, "-c", OTHER_WORKER, address], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout
        assert other.stdout.readline() == "listening\n"
        with pytest.raises(LineBroken, match="user 65534 is at the other end"):
            Line(address, new_key())
        other.kill()
    Path(address).unlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_an_asker_of_another_user_is_hung_up_on(answerer: tuple[str, bytes, Any]) -> None:
    address, key, process = answerer
    ask = [sys.executable, "-c", OTHER_ASKER, address]
    assert subprocess.run(ask, capture_output=True, text=True, check=False).stdout == "PermissionError\n"
    os.chmod(Path(address).parent, 0o755)
    os.chmod(address, 0o777)
    assert subprocess.run(ask, capture_output=True, text=True, check=False).stdout == "b''\n"
    line = Line(address, key)
    assert line.call(nap, (0.0,)) == process.pid
    line.hang_up()
    line.close()


@pytest.mark.kills
def test_a_process_is_known_to_be_gone(worker: tuple[Line, Any]) -> None:
    _, process = worker
    found = Process.find(process.pid, pid_namespace())
    assert found
    assert Process.find(process.pid, pid_namespace() + 1) is None
    assert found.end()
    assert found.end(), "a second time finds it gone"
