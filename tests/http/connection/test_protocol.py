"""Connections of a real server: heads without end, silence, answers nobody reads, and draining."""

import http.client
import io
import json
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest

import normtree_kernels as nk

NPY = {"Content-Type": "application/x-npy"}
HEAD_BYTES, HEAD_S, UNREAD_S = 4096, 1.0, 1.0
CONNECTIONS = 50


@pytest.fixture(scope="module")
def bounded(serve: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("bounded") / "log.txt"
    bounds = {"head_limit_bytes": HEAD_BYTES, "head_timeout_s": HEAD_S, "unread_timeout_s": UNREAD_S}
    with serve(log, inline_only=True, workers=2, arena_bytes=2**26, connections_limit=CONNECTIONS, **bounds) as (
        base,
        _,
    ):
        yield base


@pytest.fixture
def line(bounded: str) -> Iterator[socket.socket]:
    place = urlsplit(bounded)
    with socket.create_connection((place.hostname, place.port), timeout=60) as found:
        yield found


def answer(line: socket.socket) -> tuple[int, dict[str, Any]]:
    found = http.client.HTTPResponse(line)
    found.begin()
    problem: dict[str, Any] = json.loads(found.read())
    assert found.headers["content-type"] == "application/problem+json"
    assert found.headers["connection"] == "close"
    assert found.headers["x-request-id"] == problem["request_id"]
    assert (problem["status"], problem["error"]) == (found.status, problem["detail"])
    return found.status, problem


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def in_flight(base: str) -> int:
    """Requests that the service has let in and not answered."""
    text = httpx.get(f"{base}/metrics", timeout=60).text
    (found,) = re.findall(r"^normtree_inflight_requests (\S+)$", text, re.MULTILINE)
    return int(float(found))


def npy(array: Any) -> bytes:
    body = io.BytesIO()
    np.save(body, array)
    return body.getvalue()


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v2/health/live HTTP/1.1\r\n" + b"".join(b"X-%d: 1\r\n" % i for i in range(2000)) + b"\r\n",
        b"GET /v2/health/live HTTP/1.1\r\nX: " + b"x" * 10**6,
        b"GET /v2/health/live HTTP/1.1\r\nX: " + b"x" * HEAD_BYTES + b"\r\n\r\n",
        b"GET /" + b"x" * HEAD_BYTES + b" HTTP/1.1\r\n\r\n",
        b"GET /" + b"x" * 10**6,
    ],
    ids=["many", "endless value", "long value", "long path", "endless path"],
)
def test_heads_that_are_too_large(line: socket.socket, head: bytes) -> None:
    line.sendall(head)
    status, problem = answer(line)
    assert (status, problem["code"]) == (431, "head-too-large")


def test_head_at_the_limit_is_read_on_one_connection_many_times(line: socket.socket) -> None:
    for _ in range(3):
        line.sendall(
            b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * (HEAD_BYTES - 100) + b"\r\n\r\n"
        )
        found = http.client.HTTPResponse(line)
        found.begin()
        assert (found.status, found.read()) == (200, b'{"live":true}')


@pytest.mark.parametrize("sent", [b"\0\1\2\3", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n"])
def test_what_is_not_http(line: socket.socket, sent: bytes) -> None:
    line.sendall(sent)
    status, problem = answer(line)
    assert (status, problem["code"]) == (400, "malformed-request")


def test_head_that_comes_slowly(line: socket.socket) -> None:
    began, answered = time.monotonic(), threading.Event()
    line.sendall(b"GET /v2/health/live HTTP/1.1\r\n")

    def drip() -> None:
        with suppress(OSError):  # hung up on, as it should be
            while not answered.wait(0.1):
                line.sendall(b"X: y\r\n")

    dripping = threading.Thread(target=drip)
    dripping.start()
    try:
        status, problem = answer(line)
    finally:
        answered.set()
    assert (status, problem["code"]) == (408, "head-timeout")
    assert time.monotonic() - began > HEAD_S * 0.5
    dripping.join()


def test_silence(line: socket.socket) -> None:
    began = time.monotonic()
    assert line.recv(1) == b""
    assert time.monotonic() - began > HEAD_S * 0.5


def test_second_head_that_comes_slowly(line: socket.socket) -> None:
    line.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
    found = http.client.HTTPResponse(line)
    found.begin()
    found.read()
    time.sleep(HEAD_S + 0.5)  # between requests there is more time
    line.sendall(b"GET /v2")
    status, _ = answer(line)
    assert status == 408


def test_answer_that_nobody_reads_is_given_up(bounded: str, line: socket.socket) -> None:
    body = npy(np.ones((2048, 2048), np.float32))
    place = urlsplit(bounded)
    head = (
        f"POST /v1/project?radius=2 HTTP/1.1\r\nHost: {place.netloc}\r\n"
        f"Content-Type: application/x-npy\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    line.sendall(head.encode() + body)
    wait_for(lambda: in_flight(bounded) == 1)
    wait_for(lambda: in_flight(bounded) == 0)
    received = 0
    with suppress(ConnectionError):
        while part := line.recv(2**20):
            received += len(part)
    assert received < len(body)
    y = np.random.default_rng(0).standard_normal((200, 300))
    for _ in range(2):
        right = httpx.post(f"{bounded}/v1/project?radius=2", content=npy(y), headers=NPY, timeout=60)
        np.testing.assert_array_equal(np.load(io.BytesIO(right.content)), nk.project(y, "l1,linf", 2.0))


LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
BEGUN = (
    b"POST /v1/project?radius=2 HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-npy\r\n"
    b"Content-Length: 1000\r\n\r\n"
)


def is_alive(line: socket.socket) -> bool:
    line.sendall(LIVE)
    found = http.client.HTTPResponse(line)
    found.begin()
    return (found.status, found.read()) == (200, b'{"live":true}')


def test_idle_connections_give_way_to_those_that_come(bounded: str) -> None:
    place = urlsplit(bounded)
    with ExitStack() as held:
        lines = []
        for _ in range(3 * CONNECTIONS):
            line = held.enter_context(socket.create_connection((place.hostname, place.port), timeout=60))
            assert is_alive(line)
            lines.append(line)
        for line in lines[:CONNECTIONS]:
            with suppress(ConnectionError):
                assert line.recv(1) == b""
        assert all(is_alive(line) for line in lines[-CONNECTIONS // 2 :])


def test_connections_that_say_nothing_or_half_a_word_give_way(bounded: str) -> None:
    place = urlsplit(bounded)
    with ExitStack() as held:
        for number in range(3 * CONNECTIONS):
            line = held.enter_context(socket.create_connection((place.hostname, place.port), timeout=60))
            line.sendall(LIVE[: number % 20])
        assert httpx.get(f"{bounded}/v2/health/live", timeout=60).status_code == 200


def test_connections_that_are_busy_are_bounded_and_health_is_answered(bounded: str) -> None:
    place = urlsplit(bounded)
    with ExitStack() as held:
        for _ in range(CONNECTIONS):
            line = held.enter_context(socket.create_connection((place.hostname, place.port), timeout=60))
            line.sendall(BEGUN)
        wait_for(lambda: in_flight(bounded) == CONNECTIONS)
        late = held.enter_context(socket.create_connection((place.hostname, place.port), timeout=60))
        late.sendall(BEGUN)
        status, problem = answer(late)
        assert (status, problem["code"]) == (503, "too-many-connections")
        assert httpx.get(f"{bounded}/v2/health/ready", timeout=60).status_code == 200
        for _ in range(CONNECTIONS):  # nor do those that came too late keep health from being answered
            held.enter_context(socket.create_connection((place.hostname, place.port), timeout=60))
        assert httpx.get(f"{bounded}/v2/health/ready", timeout=60).status_code == 200
    wait_for(lambda: in_flight(bounded) == 0)


def test_connections_are_no_more_than_files_may_be_opened(serve: Any, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    few = ("sh", "-c", 'ulimit -n 100 && exec "$@"', "sh")
    with serve(log, within=few, inline_only=True, workers=2, arena_bytes=2**26) as (base, _):
        limit = httpx.get(f"{base}/v1/info", timeout=60).json()["limits"]["connections_limit"]
        assert 10 <= limit < 100
        place = urlsplit(base)
        with ExitStack() as held:
            for _ in range(limit):
                line = held.enter_context(socket.create_connection((place.hostname, place.port), timeout=60))
                line.sendall(BEGUN)
            wait_for(lambda: in_flight(base) == limit)
            late = held.enter_context(socket.create_connection((place.hostname, place.port), timeout=60))
            late.sendall(BEGUN)
            assert answer(late)[0] == 503
            assert httpx.get(f"{base}/v2/health/ready", timeout=60).status_code == 200
        wait_for(lambda: in_flight(base) == 0)
        right = httpx.post(f"{base}/v1/project?radius=2", content=npy(np.ones((3, 4))), headers=NPY, timeout=60)
        assert right.status_code == 200
    told = [json.loads(text)["message"] for text in log.read_text().splitlines()]
    assert sum(message.startswith("connections: this process may open 100 files") for message in told) == 1
    assert sum(message.startswith(f"connections: {limit} are busy at once") for message in told) == 1


def test_refused_at_expect_continue(bounded: str, line: socket.socket) -> None:
    """Nothing of the body is asked for, so nothing is sent."""
    line.sendall(
        b"POST /v1/project?radius=2 HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-npy\r\n"
        b"Content-Length: 99999999999\r\nExpect: 100-continue\r\n\r\n"
    )
    status, problem = answer(line)
    assert (status, problem["code"]) == (413, "body-too-large")


def test_request_in_flight_is_finished(serve: Any, tmp_path: Path) -> None:
    """Meanwhile the service is alive and not ready, and takes nothing new."""
    y = np.random.default_rng(0).standard_normal((200, 300))
    content = npy(y)
    with serve(tmp_path / "log.txt", inline_only=True, workers=2, arena_bytes=2**26) as (base, process):
        place = urlsplit(base)
        with socket.create_connection((place.hostname, place.port), timeout=60) as line:
            head = (
                f"POST /v1/project?radius=2 HTTP/1.1\r\nHost: {place.netloc}\r\n"
                f"Content-Type: application/x-npy\r\nContent-Length: {len(content)}\r\n\r\n"
            )
            line.sendall(head.encode() + content[:1000])
            wait_for(lambda: in_flight(base) == 1)
            process.send_signal(signal.SIGTERM)
            wait_for(lambda: httpx.get(f"{base}/v2/health/ready", timeout=60).status_code == 503)
            assert httpx.get(f"{base}/v2/health/live", timeout=60).status_code == 200
            assert httpx.get(f"{base}/v2/health/ready", timeout=60).json()["code"] == "not-ready"
            refused = httpx.post(f"{base}/v1/project?radius=2", content=content, timeout=60)
            assert (refused.status_code, refused.headers["connection"]) == (503, "close")
            assert int(refused.headers["retry-after"]) > 0
            line.sendall(content[1000:])
            answered = http.client.HTTPResponse(line)
            answered.begin()
            x = np.load(io.BytesIO(answered.read()), allow_pickle=False)
            assert answered.headers["connection"] == "close"
        np.testing.assert_array_equal(x, nk.project(y, "l1,linf", 2.0))
        assert process.wait(20) == 0


def test_request_that_outlives_the_drain_is_told(serve: Any, tmp_path: Path) -> None:
    with serve(tmp_path / "log.txt", inline_only=True, workers=2, arena_bytes=2**26, drain_s=1) as (base, process):
        place = urlsplit(base)
        with socket.create_connection((place.hostname, place.port), timeout=60) as line:
            line.sendall(
                b"POST /v1/project?radius=2 HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Type: application/x-npy\r\nContent-Length: 1000\r\n\r\n"
            )
            wait_for(lambda: in_flight(base) == 1)
            process.send_signal(signal.SIGTERM)
            status, problem = answer(line)
        assert (status, problem["code"]) == (503, "drained")
        assert process.wait(20) == 0
