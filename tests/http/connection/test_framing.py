"""Where a request ends: one answer to each, whatever is wished for, cut off, left out or put behind it."""

import http.client
import io
import json
import logging
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import httptools
import numpy as np
import pytest
import uvicorn

import normtree_kernels as nk
from normtree.http.connection.bounds import Bounds
from normtree.http.connection.connection_limit import Crowd
from normtree.http.connection.protocol import BoundedProtocol

HANG_S = 60
Y = np.random.default_rng(0).standard_normal((6, 7))
LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
LAST = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
WISH = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
WISHES = {
    "h2c": WISH,
    "websocket": "Upgrade: websocket\r\nConnection: keep-alive, upgrade\r\n",
    "several": "Upgrade: IRC/6.9, h2c\r\nUpgrade: RTA/x11\r\nConnection: close, Upgrade\r\nConnection: Upgrade\r\n",
}
CURL = shutil.which("curl")


def npy(array: Any) -> bytes:
    body = io.BytesIO()
    np.save(body, array)
    return body.getvalue()


def post(more: str = "", body: bytes = npy(Y), path: str = "/v1/project?radius=2") -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-npy\r\nContent-Length: {len(body)}\r\n"
    )
    return head.encode() + f"{more}\r\n".encode() + body


@pytest.fixture(autouse=True)
def _nothing_fails(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever comes: nobody writes to a connection that has been hung up on, and no exception is left over."""
    yield
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.fixture
def line(place: tuple[str, int]) -> Iterator[socket.socket]:
    with socket.create_connection(place, timeout=HANG_S) as found:
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield found


class Answers:
    """All that a server says on a connection until it hangs up."""

    def __init__(self, line: socket.socket) -> None:
        self.statuses: list[int] = []
        self.bodies: list[bytes] = []
        self.whole = False
        self._headers: dict[bytes, bytes] = {}
        self.headers: list[dict[bytes, bytes]] = []
        self._parser = httptools.HttpResponseParser(self)
        while part := line.recv(2**16):
            self._parser.feed_data(part)

    def on_message_begin(self) -> None:
        self._headers, self._body, self.whole = {}, b"", False

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self.statuses.append(self._parser.get_status_code())
        self.bodies.append(self._body)
        self.headers.append(self._headers)
        self.whole = True

    def problem(self) -> dict[str, Any]:
        """The last answer, which is a problem after which the connection ends."""
        found: dict[str, Any] = json.loads(self.bodies[-1])
        assert self.whole
        assert self.headers[-1][b"connection"] == b"close"
        assert found["status"] == self.statuses[-1]
        assert found["request_id"] == self.headers[-1][b"x-request-id"].decode()
        return found


def read(line: socket.socket) -> tuple[http.client.HTTPResponse, bytes]:
    answer = http.client.HTTPResponse(line)
    answer.begin()
    return answer, answer.read()


def is_right(body: bytes) -> bool:
    return np.array_equal(np.load(io.BytesIO(body)), nk.project(Y, "l1,linf", 2.0))


@pytest.mark.parametrize("wish", WISHES)
def test_wish_for_another_protocol_is_passed_over(line: socket.socket, wish: str) -> None:
    line.sendall(post(WISHES[wish]))
    answer, body = read(line)
    assert answer.status == 200
    assert "upgrade" not in answer.headers
    assert is_right(body)


def test_wish_of_a_request_without_body(line: socket.socket) -> None:
    line.sendall(LAST.replace(b"Connection: close", b"Connection: close, Upgrade\r\nUpgrade: websocket"))
    assert Answers(line).bodies == [b'{"live":true}']


def test_wish_cut_at_every_byte(line: socket.socket) -> None:
    sent = post(WISH)
    for cut in range(1, len(sent)):
        line.sendall(sent[:cut])
        time.sleep(0.001)
        line.sendall(sent[cut:])
        answer, body = read(line)
        assert (answer.status, is_right(body)) == (200, True), cut


@pytest.mark.parametrize("one_by_one", [False, True])
def test_wishes_one_behind_the_other(line: socket.socket, one_by_one: bool) -> None:
    sent = post(WISH) + LIVE + post(WISH) + LIVE.replace(b"\r\n\r\n", f"\r\n{WISH}\r\n".encode()) + post() + LAST
    for part in [sent[i : i + 1] for i in range(len(sent))] if one_by_one else [sent]:
        line.sendall(part)
    found = Answers(line)
    assert found.statuses == [200] * 6
    assert [body == b'{"live":true}' or is_right(body) for body in found.bodies] == [True] * 6
    assert [len(body) > 100 for body in found.bodies] == [True, False, True, False, True, False]


def test_body_behind_a_wish_is_no_request(line: socket.socket) -> None:
    smuggled = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: smuggled\r\n\r\n"
    sent = post(WISH, smuggled, "/v2/repository/index")
    line.sendall(sent[: -len(smuggled)])
    time.sleep(0.05)
    line.sendall(smuggled + LAST)
    found = Answers(line)
    assert len(found.statuses) == 2
    assert b"smuggled" not in {headers[b"x-request-id"] for headers in found.headers}
    assert found.bodies[1] == b'{"live":true}'


def test_wish_beside_a_body_in_chunks(line: socket.socket) -> None:
    """Refused as it is without the wish, and nothing of it is taken for a request."""
    head = post(f"{WISH}Transfer-Encoding: chunked\r\n", b"").replace(b"Content-Length: 0\r\n", b"")
    line.sendall(head + b"5\r\nGET /\r\n0\r\n\r\n" + LIVE)
    found = Answers(line)
    assert (found.statuses, found.problem()["code"]) == ([411], "length-required")


def test_wish_beside_an_expectation(line: socket.socket) -> None:
    sent = post(f"Expect: 100-continue\r\n{WISH}")
    head, _, body = sent.partition(b"\r\n\r\n")
    line.sendall(head + b"\r\n\r\n")
    assert line.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    line.sendall(body)
    answer, found = read(line)
    assert (answer.status, is_right(found)) == (200, True)


@pytest.mark.skipif(CURL is None, reason="needs curl")
def test_curl_that_wishes_for_http_2(place: tuple[str, int]) -> None:
    if b"HTTP2" not in subprocess.run([str(CURL), "--version"], capture_output=True, check=True, timeout=HANG_S).stdout:
        pytest.skip("this curl speaks no HTTP/2")
    url = f"http://{place[0]}:{place[1]}/v1/project?radius=2"
    command = [str(CURL), "-sSf", "--http2", "-H", "Content-Type: application/x-npy", "--data-binary", "@-", url]
    done = subprocess.run(command, input=npy(Y), capture_output=True, check=True, timeout=HANG_S)
    assert is_right(done.stdout)


def test_tunnels_are_not_made(line: socket.socket) -> None:
    line.sendall(b"CONNECT x:443 HTTP/1.1\r\nHost: localhost:443\r\n\r\n" + LIVE)
    found = Answers(line)
    assert (found.statuses, found.problem()["code"]) == ([501], "not-implemented")


CHUNKED = b"POST /v1/plan HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
MALFORMED = {
    "junk": b"JUNK\r\n\r\n",
    "unknown coding": CHUNKED.replace(b"chunked", b"xchunked") + b"0\r\n\r\n",
    "no coding": CHUNKED.replace(b"chunked", b"identity"),
    "coding and length": CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\n") + b"0\r\n\r\n",
    "bad chunk": CHUNKED + b"z\r\n",
    "bad chunk of who sends none": CHUNKED.replace(b"POST /v1/plan", b"GET /v2/health/live") + b"z\r\n",
    "length behind the chunks": CHUNKED + b"1\r\na\r\n0\r\nContent-Length: 4\r\n\r\n",
    "two lengths": LIVE.replace(b"\r\n\r\n", b"\r\nContent-Length: 0\r\nContent-Length: 1\r\n\r\n"),
    "folded header": LIVE.replace(b"\r\n\r\n", b"\r\nX: a\r\n b\r\n\r\n"),
    "no host": LIVE.replace(b"Host: localhost\r\n", b""),
    "two hosts": LIVE.replace(b"Host: localhost", b"Host: localhost\r\nHost: localhost"),
    "hosts in one line": LIVE.replace(b"Host: localhost", b"Host: localhost, y/z"),
    "host with a path": LIVE.replace(b"Host: localhost", b"Host: localhost/y"),
    "host with a user": LIVE.replace(b"Host: localhost", b"Host: u@x"),
    "host with a blank": LIVE.replace(b"Host: localhost", b"Host: localhost y"),
    "host with half an address": LIVE.replace(b"Host: localhost", b"Host: [::1"),
    "host with a port that is none": LIVE.replace(b"Host: localhost", b"Host: localhost:80a"),
}


@pytest.mark.parametrize("before", [0, 1, 3])
@pytest.mark.parametrize("what", MALFORMED)
def test_what_cannot_be_read_is_told_after_what_can(line: socket.socket, what: str, before: int) -> None:
    line.sendall(post() * before + MALFORMED[what] + LIVE)
    found = Answers(line)
    assert found.statuses == [200] * before + [400]
    assert all(map(is_right, found.bodies[:-1]))
    assert found.problem()["code"] == "malformed-request"
    assert found.problem()["detail"]


def test_what_cannot_be_read_comes_later(line: socket.socket) -> None:
    line.sendall(post())
    assert read(line)[0].status == 200
    line.sendall(MALFORMED["junk"])
    assert Answers(line).problem()["code"] == "malformed-request"


def test_head_that_never_ends_behind_an_answer_that_is_owed(line: socket.socket) -> None:
    line.sendall(post() + LIVE[:-2] + b"X: ")
    time.sleep(0.01)
    line.sendall(b"x" * 10_000)
    found = Answers(line)
    assert (found.statuses, is_right(found.bodies[0])) == ([200, 431], True)


@pytest.mark.parametrize("endless", [b"1;", b"0\r\nX: "], ids=["chunk", "trailer"])
def test_what_never_ends_between_the_parts_of_a_body(line: socket.socket, endless: bytes) -> None:
    line.sendall(CHUNKED + endless)
    time.sleep(0.01)
    line.sendall(b"x" * 5000)
    assert Answers(line).statuses in ([400], [411])
    assert line.recv(1) == b""


def test_trailers_are_no_headers(line: socket.socket) -> None:
    chunked = CHUNKED.replace(b"POST /v1/plan", b"GET /v2/health/live")
    line.sendall(chunked + b"1\r\na\r\n0\r\nX-Request-Id: behind\r\n\r\n" + LAST)
    found = Answers(line)
    assert found.statuses == [200, 200]
    assert b"behind" not in {headers[b"x-request-id"] for headers in found.headers}


@pytest.mark.parametrize(
    "host", ["x", "x.example:8000", "127.0.0.1:80", "[::1]", "[::1]:8000", "[fe80::1%25eth0]", "a_b", "", "x:"]
)
def test_hosts(line: socket.socket, host: str) -> None:
    line.sendall(LIVE.replace(b"Host: localhost", f"hOST: \t{host}  ".encode()))
    assert read(line)[0].status == 200


def test_http_before_hosts(line: socket.socket) -> None:
    line.sendall(b"GET /v2/health/live HTTP/1.0\r\n\r\n")
    assert Answers(line).bodies == [b'{"live":true}']


def test_blanks_behind_a_value(line: socket.socket) -> None:
    sent = post().replace(b"Content-Length: ", b"Content-Length:\t  ").replace(b"\r\n\r\n", b" \t \r\n\r\n", 1)
    line.sendall(sent)
    answer, body = read(line)
    assert (answer.status, is_right(body)) == (200, True)


@pytest.mark.parametrize("nbytes", [100, 300_000, 2_000_000])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_who_has_finished_sending_is_answered(line: socket.socket, nbytes: int, version: str) -> None:
    y = np.random.default_rng(1).standard_normal((10, -(-nbytes // 80)))
    line.sendall(post(body=npy(y)).replace(b"HTTP/1.1", f"HTTP/{version}".encode()))
    line.shutdown(socket.SHUT_WR)
    found = Answers(line)
    assert found.statuses == [200]
    np.testing.assert_array_equal(np.load(io.BytesIO(found.bodies[0])), nk.project(y, "l1,linf", 2.0))


def test_who_has_finished_sending_several(line: socket.socket) -> None:
    line.sendall(post() * 4 + LIVE)
    line.shutdown(socket.SHUT_WR)
    assert Answers(line).statuses == [200] * 5


@pytest.mark.parametrize(
    ("sent", "refused"),
    [
        (post()[:-10], 400),
        (post(path="/v2/health/live")[:-10], 405),  # where it was refused before it ended
        (CHUNKED + b"5\r\nab", 411),
        (LIVE[:-1], 400),
    ],
    ids=["body", "body that is not wanted", "chunk", "head"],
)
@pytest.mark.parametrize("wait_s", [0, 0.1])
def test_who_finishes_too_early_is_told(line: socket.socket, sent: bytes, refused: int, wait_s: float) -> None:
    line.sendall(LIVE + sent)
    time.sleep(wait_s)
    line.shutdown(socket.SHUT_WR)
    found = Answers(line)
    assert found.statuses in ([200, 400], [200, refused])


@pytest.mark.parametrize("before", [b"", LIVE])
def test_who_finishes_when_nothing_is_owed_is_hung_up_on(line: socket.socket, before: bytes) -> None:
    if before:
        line.sendall(before)
        assert read(line)[0].status == 200
    line.shutdown(socket.SHUT_WR)
    assert line.recv(1) == b""


@pytest.mark.parametrize("leaves", [True, False], ids=["and leaves", "and stays"])
def test_who_has_finished_sending_is_looked_after(run: Any, leaves: bool) -> None:
    """Work goes on for who waits for it, and not for who is gone."""
    told: list[str] = []
    gone = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while True:
            message = await receive()
            told.append(message["type"])
            if message["type"] == "http.disconnect":
                gone.set()
                return

    bounds = Bounds(4096, HANG_S, HANG_S, HANG_S, 4096, HANG_S, presence_s=0.1)
    http = partial(BoundedProtocol, bounds, Crowd(10))
    config = uvicorn.Config(app, http=http, ws="none", lifespan="off", log_config=None, timeout_graceful_shutdown=1)  # type: ignore[arg-type]
    with run(uvicorn.Server(config)) as place, socket.create_connection(place, timeout=HANG_S) as line:
        line.sendall(LIVE)
        line.shutdown(socket.SHUT_WR)
        if leaves:
            line.close()
            assert gone.wait(HANG_S)
        else:
            assert line.recv(25) == line.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
            assert not gone.is_set()
    assert told[-1] == "http.disconnect"
