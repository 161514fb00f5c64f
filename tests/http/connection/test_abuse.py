"""Abuse of a real server: a typed answer or a closed connection, everything given back, and the next request served."""

import gzip
import http.client
import io
import json
import re
import resource
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest

import normtree_kernels as nk

NPY = {"Content-Type": "application/x-npy"}
MIB = 2**20
BODY_S, HEAD_S = 2.0, 3.0
HANG_S = 60
DRAIN_S = 250
SLACK_BYTES = 48 * MIB  # what an allocator may keep
IDLE = 1000


@dataclass(frozen=True)
class Usage:
    """What a process holds."""

    resident_bytes: int
    descriptors: int
    threads: int
    segments: int

    @classmethod
    def of(cls, pid: int) -> "Usage":
        status = Path(f"/proc/{pid}/status").read_text()
        anonymous, threads = (int(re.search(rf"{name}:\s+(\d+)", status)[1]) for name in ("RssAnon", "Threads"))  # type: ignore[index]
        descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        return cls(1024 * anonymous, descriptors, threads, len(list(Path("/dev/shm").glob(f"normtree-{pid}-*"))))


@dataclass(frozen=True)
class Server:
    base: str
    pid: int

    @property
    def place(self) -> tuple[str, int]:
        found = urlsplit(self.base)
        return str(found.hostname), int(found.port or 0)

    def connect(self) -> socket.socket:
        return socket.create_connection(self.place, timeout=HANG_S)

    def metric(self, name: str) -> float:
        text = httpx.get(f"{self.base}/metrics", timeout=HANG_S).text
        return sum(
            float(value) for value in re.findall(rf"^{re.escape(name)}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
        )

    def settle(self, before: Usage) -> None:
        """Wait until all that was held is given back, and check that the service still is right."""
        end = time.monotonic() + 60
        while True:
            now = Usage.of(self.pid)
            held = self.metric('normtree_arena_bytes{state="leased"}') + self.metric("normtree_inflight_requests")
            back = (
                held == 0
                and now.resident_bytes <= before.resident_bytes + SLACK_BYTES
                # Some are of connections that are kept alive, two of each segment that waits for its next lease.
                and now.descriptors <= before.descriptors + 20 + 2 * max(0, now.segments - before.segments)
                and now.threads <= before.threads + 4
            )
            if back or time.monotonic() > end:
                break
            time.sleep(0.1)
        assert back, (before, now, held)
        self.check()

    def check(self) -> None:
        y = np.random.default_rng(0).standard_normal((50, 60))
        answer = httpx.post(f"{self.base}/v1/project?radius=2", content=npy(y), headers=NPY, timeout=HANG_S)
        np.testing.assert_array_equal(np.load(io.BytesIO(answer.content)), nk.project(y, "l1,linf", 2.0))


def npy(array: Any) -> bytes:
    body = io.BytesIO()
    np.save(body, array)
    return body.getvalue()


def head(length: int | str, *more: str, path: str = "/v1/project?radius=2") -> bytes:
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/x-npy",
        f"Content-Length: {length}",
        *more,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def answer(line: socket.socket) -> tuple[int, dict[str, Any]] | None:
    """Return status and problem; None for a connection that was closed without a word."""
    found = http.client.HTTPResponse(line)
    try:
        found.begin()
        content = found.read()
    except (http.client.HTTPException, ConnectionError):
        return None
    return found.status, json.loads(content)


@pytest.fixture(scope="module")
def server(serve: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("abused") / "log.txt"
    bounds = {"body_timeout_s": BODY_S, "head_timeout_s": HEAD_S, "body_limit_bytes": 64 * MIB}
    with serve(log, inline_only=True, workers=2, arena_bytes=256 * MIB, **bounds) as (base, process):
        found = Server(base, process.pid)
        for size in (1000, 2000):  # segments and threads of ordinary work
            body = npy(np.ones((size, size), np.float32))
            httpx.post(f"{base}/v1/project?radius=2", content=body, headers=NPY, timeout=HANG_S)
        yield found


@pytest.fixture(autouse=True)
def _all_is_given_back(server: Server) -> Iterator[None]:
    server.check()
    before = Usage.of(server.pid)
    yield
    server.settle(before)


@pytest.mark.parametrize(
    ("length", "more"),
    [
        ("-1", ()), ("+5", ()), ("0x10", ()), ("1e3", ()), ("", ()), ("9" * 30, ()), (2**63, ()), (2**64, ()),
        ("10, 10", ()), ("10", ("Content-Length: 11",)), ("10", ("Transfer-Encoding: chunked",)),
    ],
)  # fmt: skip
def test_lengths_that_are_none(server: Server, length: int | str, more: tuple[str, ...]) -> None:
    with server.connect() as line:
        line.sendall(head(length, *more) + b"x" * 10)
        found = answer(line)
    assert found is None or (found[0] in {400, 408, 411, 413} and found[1]["status"] == found[0])


@pytest.mark.parametrize("told", [1, 9, 100, MIB, 48 * MIB])
def test_lengths_that_lie(server: Server, told: int) -> None:
    """Whether less or more comes than was announced."""
    body = npy(np.ones((50, 60)))
    with server.connect() as line:
        line.sendall(head(told) + body)
        found = answer(line)
    assert found is None or found[0] in {400, 408}


def test_shapes_that_lie_take_no_memory(server: Server) -> None:
    header = (
        b"\x93NUMPY\x01\x00v\x00"
        + b"{'descr': '<f8', 'fortran_order': False, 'shape': (1073741824, 7), }".ljust(117)
        + b"\n"
    )
    with server.connect() as line:
        line.sendall(head(len(header) + 8) + header + bytes(8))
        assert (answer(line) or (0,))[0] == 400


@pytest.mark.parametrize("path", ["/v1/project?radius=2", "/v2/models/multilevel/infer"])
@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "gzip, gzip"])
def test_bombs_are_not_unpacked(server: Server, coding: str, path: str) -> None:
    bomb = gzip.compress(bytes(256 * MIB), 1)
    headers = {**NPY, "Content-Encoding": coding, "Inference-Header-Content-Length": str(256 * MIB)}
    got = httpx.post(f"{server.base}{path}", content=bomb, headers=headers, timeout=HANG_S)
    assert got.status_code in {400, 404, 413, 415}
    assert got.headers["content-type"] == "application/problem+json"


def test_bodies_that_come_slowly(server: Server) -> None:
    body = npy(np.ones((200, 300), np.float32))
    with ExitStack() as held:
        lines = [held.enter_context(server.connect()) for _ in range(30)]
        began = time.monotonic()
        for line in lines:
            line.sendall(head(len(body)) + body[:200])
        while time.monotonic() - began < BODY_S - 1:
            for line in lines:
                line.sendall(b"\0")
            time.sleep(0.2)
        for line in lines:
            found = answer(line)
            assert found
            assert (found[0], found[1]["code"]) == (408, "body-timeout")


def test_heads_that_come_slowly_by_the_hundred(server: Server) -> None:
    with ExitStack() as held:
        lines = [held.enter_context(server.connect()) for _ in range(100)]
        for line in lines:
            line.sendall(b"POST /v1/project HTTP/1.1\r\nX: " + b"x" * 60_000)
        assert httpx.get(f"{server.base}/v2/health/live", timeout=HANG_S).status_code == 200
        for line in lines:
            found = answer(line)
            assert found is None or found[0] == 408


def test_thousand_idle_connections(server: Server) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < IDLE + 500:
        pytest.skip(f"this process may open {hard} files, and {IDLE + 500} are wanted")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, IDLE + 500), hard))
    try:
        with ExitStack() as held:
            lines = [held.enter_context(server.connect()) for _ in range(IDLE)]
            for _ in range(20):
                assert httpx.get(f"{server.base}/v2/health/live", timeout=HANG_S).status_code == 200
            server.check()
            time.sleep(HEAD_S)
            closed = 0
            for line in lines:
                line.settimeout(HANG_S)
                with suppress(TimeoutError):
                    closed += line.recv(1) == b""
            assert closed == IDLE
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("where", ["in the head", "in the body", "in the work", "in the answer"])
def test_two_hundred_that_go_away(server: Server, where: str) -> None:
    body = npy(np.random.default_rng(0).standard_normal((1024, 512)).astype(np.float32))
    sent = {"in the head": head(len(body))[:40], "in the body": head(len(body)) + body[:MIB]}.get(
        where, head(len(body), path="/v1/project?radius=2&norm=l1,l1") + body
    )

    def go_away(number: int) -> None:
        line = server.connect()
        with suppress(ConnectionError):
            line.sendall(sent)
            if where == "in the answer":
                line.recv(1000)
            elif where == "in the work":
                time.sleep(0.002 * (number % 10))
        if number % 2:  # half of them slam the door
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        line.close()

    with ThreadPoolExecutor(8) as clients:
        assert len(list(clients.map(go_away, range(200)))) == 200


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    y = np.random.default_rng(0).standard_normal((20, 30))
    body = npy(y)
    with server.connect() as line:
        line.sendall((head(len(body)) + body) * 20)
        stream = line.makefile("rb")
        for _ in range(20):
            assert stream.readline() == b"HTTP/1.1 200 OK\r\n"
            length = 0
            while (header := stream.readline()) != b"\r\n":
                if header.lower().startswith(b"content-length:"):
                    length = int(header.split(b":")[1])
            x = np.load(io.BytesIO(stream.read(length)))
            np.testing.assert_array_equal(x, nk.project(y, "l1,linf", 2.0))


@pytest.mark.kills
def test_sigterm_under_load(serve: Any, tmp_path: Path) -> None:
    """Whoever was let in is answered: with the projection, or that the service is draining."""
    y = np.random.default_rng(0).standard_normal((512, 1024)).astype(np.float32)
    body, right = npy(y), npy(nk.project(y, "l1,linf", 2.0))
    outcomes: Counter[str] = Counter()
    stop = threading.Event()

    def load(base: str) -> None:
        with httpx.Client(base_url=base, timeout=HANG_S) as client:
            while not stop.is_set():
                try:
                    found = client.post("/v1/project?radius=2", content=body, headers=NPY)
                except httpx.ConnectError:
                    outcomes["not connected"] += 1
                    return
                except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError) as error:
                    outcomes[f"cut off: {type(error).__name__}"] += 1
                    return
                if found.status_code == 200:
                    outcomes["right" if found.content == right else "wrong"] += 1
                else:
                    outcomes[found.json()["code"]] += 1
                    return

    log = tmp_path / "log.txt"
    with serve(log, inline_only=True, workers=2, arena_bytes=256 * MIB, drain_s=DRAIN_S) as (base, process):
        clients = [threading.Thread(target=load, args=(base,)) for _ in range(8)]
        for client in clients:
            client.start()
        while outcomes["right"] < 8:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.wait(DRAIN_S - 50) == 0, "the drain did not wait for its end"
        stop.set()
        for client in clients:
            client.join()
    assert outcomes["wrong"] == 0
    assert outcomes.keys() <= {"right", "not-ready", "not connected"}, outcomes
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    codes = Counter(
        line["code"] for line in lines if line["logger"] == "normtree.request" and line["route"] == "/v1/project"
    )
    assert codes[200] == outcomes["right"]
    assert not codes.keys() - {200, 503}
