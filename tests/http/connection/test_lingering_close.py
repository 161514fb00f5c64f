"""Hanging up on clients that go on sending: they read why, and are not borne for ever."""

import http.client
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from normtree.keys.key import new_key

MIB = 2**20
BODY_LIMIT, LINGER_BYTES, LINGER_S, BODY_S = 4 * MIB, 24 * MIB, 1.0, 1.0
SECRET, KEY = new_key("ada")
SLOW_SECRET, SLOW_KEY = new_key("slow")
KEYED = f"Authorization: Bearer {SECRET}\r\n"


@pytest.fixture(scope="module")
def place(serve: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    log = tmp_path_factory.mktemp("linger") / "log.txt"
    bounds = {"body_limit_bytes": BODY_LIMIT, "linger_limit_bytes": LINGER_BYTES, "linger_timeout_s": LINGER_S}
    keys = {"keys": f"{KEY};{SLOW_KEY}", "key_rate_per_s": 1e-6, "key_burst": 1}
    with serve(log, inline_only=True, workers=2, arena_bytes=2**25, body_timeout_s=BODY_S, **bounds, **keys) as (
        base,
        _,
    ):
        found = urlsplit(base)
        yield found.hostname, found.port
        assert httpx.get(f"{base}/v2/health/live", timeout=60).json() == {"live": True}


@pytest.fixture
def line(place: tuple[str, int]) -> Iterator[socket.socket]:
    with socket.create_connection(place, timeout=60) as found:
        yield found


def head(length: int, more: str = "", query: str = "radius=2") -> bytes:
    return (
        f"POST /v1/project?{query} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-npy\r\n"
        f"Content-Length: {length}\r\n{more}\r\n"
    ).encode()


def read(line: socket.socket) -> tuple[http.client.HTTPResponse, Any]:
    answer = http.client.HTTPResponse(line)
    answer.begin()
    return answer, json.loads(answer.read())


def drip_until_cut_off(line: socket.socket) -> None:
    """Send byte after byte until the service hangs up; the test's own time limit ends it otherwise."""
    with suppress(ConnectionError):
        while True:
            line.sendall(b"x")
            time.sleep(0.05)


@pytest.mark.parametrize(
    ("more", "length", "status", "code"),
    [
        ("", 16 * MIB, 401, "key-missing"),
        ("Authorization: Bearer nonsense\r\n", 16 * MIB, 403, "key-refused"),
        (KEYED, 16 * MIB, 413, "body-too-large"),
    ],
    ids=["no key", "a wrong key", "too large"],  # a key is another in each process that collects
)
def test_who_sends_all_before_reading_reads_the_answer(
    line: socket.socket, more: str, length: int, status: int, code: str
) -> None:
    line.sendall(head(length, more))
    line.sendall(bytes(length))
    answer, problem = read(line)
    assert (answer.status, problem["code"]) == (status, code)
    assert answer.headers["connection"] == "close"
    assert line.recv(1) == b""


@pytest.mark.parametrize("together", [True, False], ids=["head and body together", "the body after the answer"])
def test_a_short_body_that_is_refused_leaves_the_connection_usable(line: socket.socket, together: bool) -> None:
    body = bytes(64 * 2**10)
    line.sendall(head(len(body)) + (body if together else b""))
    answer, problem = read(line)
    assert (answer.status, problem["code"], answer.headers["connection"]) == (401, "key-missing", None)
    line.sendall((b"" if together else body) + b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
    answer, found = read(line)
    assert (answer.status, found) == (200, {"live": True})


@pytest.mark.parametrize("more", ["Expect: 100-continue\r\n", "Transfer-Encoding: chunked\r\n"])
def test_a_short_body_that_may_not_come_or_end_does_not(line: socket.socket, more: str) -> None:
    line.sendall(head(8, more).replace(b"Content-Length: 8\r\nTr", b"Tr"))
    answer, _ = read(line)
    assert (answer.status, answer.headers["connection"]) == (401, "close")


def test_too_often_is_read_too(place: tuple[str, int]) -> None:
    more, seen = f"Authorization: Bearer {SLOW_SECRET}\r\n", []
    for _ in range(2):
        with socket.create_connection(place, timeout=60) as line:
            line.sendall(head(3 * MIB, more))
            line.sendall(bytes(3 * MIB))
            answer, problem = read(line)
            seen.append(answer.status)
    assert seen == [400, 429]
    assert problem["code"] == "rate-exceeded"


def test_who_never_ends_is_cut_off(line: socket.socket) -> None:
    sent = 0
    line.sendall(head(2**40))
    with suppress(ConnectionError):
        while True:
            line.sendall(bytes(MIB))
            sent += MIB
    assert LINGER_BYTES <= sent < 4 * LINGER_BYTES  # what the kernel's buffers hold comes on top


def test_who_stays_is_hung_up_on(line: socket.socket) -> None:
    line.sendall(head(2**40))
    answer, _ = read(line)
    assert answer.status == 401
    assert line.recv(1) == b""
    drip_until_cut_off(line)


def test_rest_of_a_body_that_was_answered_has_a_bounded_time(line: socket.socket) -> None:
    line.sendall(head(MIB).replace(b"/v1/project", b"/v2/health/live"))
    answer, _ = read(line)
    assert (answer.status, answer.headers["connection"]) == (405, None)
    drip_until_cut_off(line)


def test_many_that_stay_hinder_nobody(place: tuple[str, int]) -> None:
    with ExitStack() as held:
        lines = [held.enter_context(socket.create_connection(place, timeout=60)) for _ in range(50)]
        for each in lines:
            each.sendall(head(2**40))
        assert {read(each)[0].status for each in lines} == {401}
        assert httpx.get(f"http://{place[0]}:{place[1]}/v2/health/live", timeout=60).status_code == 200
