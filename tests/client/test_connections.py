"""The clients' connections: none is shared by two processes, no answer is taken for another's, and which proxies."""

import asyncio
import gzip
import multiprocessing
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import save

from normtree import AsyncClient, Client
from normtree.client import AnswerMismatch, Projected, UnexpectedAnswer, Unreachable
from normtree.client.connection import proxy_of
from normtree.processes.starting import free_port

Y = np.ones((4, 3), np.float32)
MEDIA_TYPE = "application/vnd.safetensors"
ANSWER = {"Content-Type": MEDIA_TYPE, "X-Normtree-Timing": "{}"}
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


class Canned(ThreadingHTTPServer):
    """A service that answers as it is told, and notes from which port each request came."""

    daemon_threads = True

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes, name_id: Callable[[str], list[str]]):
        super().__init__(("127.0.0.1", 0), Answering)
        self.status, self.headers, self.body, self.name_id = status, headers, body, name_id
        self.came: list[tuple[str, int]] = []


class Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Canned

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.came.append((self.path, self.client_address[1]))
        self.send_response_only(self.server.status)
        for name, value in {**self.server.headers, "Content-Length": str(len(self.server.body))}.items():
            self.send_header(name, value)
        for value in self.server.name_id(self.headers["X-Request-Id"]):
            self.send_header("X-Request-Id", value)
        self.end_headers()
        self.wfile.write(self.server.body)

    do_GET = do_POST = answer

    def log_message(self, *_: object) -> None:
        pass


def those(ids: list[str], _: str) -> list[str]:
    """Name a request by ids that are not its own."""
    return ids


def same(sent: str) -> list[str]:
    return [sent]


@contextmanager
def canned(
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"{}",
    name_id: Callable[[str], list[str]] = same,
) -> Iterator[tuple[str, Canned]]:
    with Canned(status, headers or {}, body, name_id) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", server
        finally:
            server.shutdown()
            thread.join()


def ask(kind: Any, url: str, method: str, *arguments: Any) -> Any:
    """Ask once, by either client."""
    if kind is Client:
        with Client(url) as client:
            return getattr(client, method)(*arguments)

    async def main() -> Any:
        async with AsyncClient(url) as client:
            return await getattr(client, method)(*arguments)

    return asyncio.run(main())


TRACED = Projected(Y, {}, None, "", "/v1/traces/x")


def comes_back(k: int) -> bool:
    y = np.full((50, 40), k + 1, np.float32)
    return np.array_equal(SHARED[0].project(y, "l1,linf", 1e9).x, y)


SHARED: list[Client] = []


def in_child(run: Callable[[], object]) -> None:
    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    child.join()
    assert child.exitcode == 0


pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def test_a_forked_child_connects_itself() -> None:
    with canned() as (url, server), Client(url) as client:
        client.info()
        for _ in range(2):
            in_child(client.info)
        client.info()
    first, child, other, last = (port for _, port in server.came)
    assert len({first, child, other}) == 3
    assert last == first  # what the children did has not touched it


def test_a_forked_child_connects_itself_in_a_loop_of_its_own() -> None:
    with canned() as (url, server), asyncio.Runner() as runner:
        client = AsyncClient(url)
        runner.run(client.info())
        in_child(lambda: asyncio.run(client.info()))
        runner.run(client.info())
        runner.run(client.aclose())
    first, child, last = (port for _, port in server.came)
    assert first == last != child


def test_forked_children_get_their_own_tensors(service: str) -> None:
    with Client(service) as client:
        client.wait_until_ready()
        SHARED[:] = [client]
        with multiprocessing.get_context("fork").Pool(4) as pool:
            assert all(pool.map(comes_back, range(40), chunksize=1))


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("method", "arguments"),
    [("project", (Y, "l1,linf", 1.0)), ("info", ()), ("trace", (TRACED,)), ("wait_until_ready", (5,))],
)
def test_an_answer_to_another_request_is_refused(kind: Any, method: str, arguments: tuple[Any, ...]) -> None:
    for name_id in (lambda _: ["another"], lambda _: []):
        with canned(headers=ANSWER, name_id=name_id) as (url, _), pytest.raises(AnswerMismatch) as caught:
            ask(kind, url, method, *arguments)
        assert caught.value.got in ("another", "none")
        assert "a proxy on the way must hand this header on as it is" in str(caught.value)


def test_the_connection_of_an_answer_to_another_request_is_closed() -> None:
    with canned(name_id=lambda _: ["another"]) as (url, server), Client(url) as client:
        for _ in range(2):
            with pytest.raises(AnswerMismatch):
                client.info()
    assert len({port for _, port in server.came}) == 2


def test_an_id_that_a_proxy_adds_does_no_harm() -> None:
    with canned(name_id=lambda sent: ["its own", sent]) as (url, _):
        assert ask(Client, url, "info") == {}


def test_a_proxy_s_own_error_needs_no_id() -> None:
    for ids, kind in (([], UnexpectedAnswer), (["another"], AnswerMismatch)):
        with canned(502, body=b"Bad Gateway", name_id=partial(those, ids)) as (url, _), pytest.raises(kind):
            ask(Client, url, "info")


BODY = save({"y": Y})


@pytest.mark.parametrize(
    ("headers", "body", "told"),
    [
        ({"Content-Type": "text/html"}, b"<p>log in", "200: Content-Type: wanted application/vnd.saf"),
        ({"Content-Encoding": "br"}, BODY, "200: Content-Encoding: wanted identity, got br"),
        ({"Content-Encoding": "gzip"}, BODY, "its Content-Encoding is broken"),
        ({"Content-Encoding": "gzip"}, gzip.compress(BODY, mtime=0)[:-20], "200: body: wanted "),
        ({}, BODY[:-1], "200: body: wanted 120 bytes, got 119 bytes"),
        ({}, BODY + b"0", "200: body: wanted 120 bytes, got 121 bytes"),
        ({}, BODY[:20], "200: body: wanted more than its header, got 20 bytes"),
        ({}, b"<html>\n<p>no safetensors", "200: safetensors header: at most"),
        ({"X-Normtree-Timing": "none"}, BODY, "200: X-Normtree-Timing: wanted JSON, got none"),
    ],
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_answers_that_are_not_the_service_s(kind: Any, headers: dict[str, str], body: bytes, told: str) -> None:
    with canned(headers=ANSWER | headers, body=body) as (url, _), pytest.raises(UnexpectedAnswer, match=told) as caught:
        ask(kind, url, "project", Y, "l1,linf", 1.0)
    assert caught.value.answered == 200


@pytest.mark.parametrize("body", [b"<p>log in", b"[]", b""])
def test_what_is_no_json(body: bytes) -> None:
    with canned(body=body) as (url, _), pytest.raises(UnexpectedAnswer, match="200: wanted an object of JSON, got"):
        ask(Client, url, "info")


@pytest.mark.parametrize("method", ["project", "info"])
def test_a_service_that_has_moved(method: str) -> None:
    elsewhere = {"Location": "https://example.org/v1"}
    with (
        canned(301, elsewhere) as (url, _),
        pytest.raises(UnexpectedAnswer, match=r"301: it is at https://example.org"),
    ):
        ask(Client, url, method, *((Y, "l1,linf", 1.0) if method == "project" else ()))


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return what sets the proxies of the environment, and no others."""

    def set_proxies(**given: str) -> None:
        for name in PROXIES:
            for spelt in (name, name.upper()):
                monkeypatch.delenv(spelt, raising=False)
        for name, value in given.items():
            monkeypatch.setenv(name, value)

    return set_proxies


@pytest.mark.parametrize(
    ("url", "proxies", "found"),
    [
        ("http://models.example.org:8000", {"http_proxy": "http://p:1"}, "http://p:1"),
        ("https://models.example.org", {"HTTPS_PROXY": "p:1", "http_proxy": "http://q:1"}, "http://p:1"),
        ("https://models.example.org", {"ALL_PROXY": "http://p:1"}, "http://p:1"),
        ("http://models.example.org:8000", {"http_proxy": "http://p:1", "no_proxy": "example.org"}, None),
        ("http://models.example.org:8000", {"http_proxy": "http://p:1", "no_proxy": "*"}, None),
        ("http://models.example.org", {}, None),
        ("http://127.0.0.1:8000", {"http_proxy": "http://p:1"}, None),
        ("http://127.1.2.3", {"ALL_PROXY": "http://p:1"}, None),
        ("http://localhost:8000", {"http_proxy": "http://p:1"}, None),
        ("http://[::1]:8000", {"all_proxy": "http://p:1"}, None),
        ("http://0.0.0.0:8000", {"http_proxy": "http://p:1"}, None),
    ],
)
def test_which_proxy(environment: Any, url: str, proxies: dict[str, str], found: str | None) -> None:
    environment(**proxies)
    assert proxy_of(httpx.URL(url)) == found


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_loopback_is_reached_without_the_proxy(environment: Any, kind: Any) -> None:
    environment(http_proxy=f"http://127.0.0.1:{free_port()}", all_proxy="socks5://127.0.0.1:1")
    with canned() as (url, server):
        assert ask(kind, url, "info") == {}
    assert len(server.came) == 1


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_another_machine_is_reached_through_the_proxy(environment: Any, kind: Any) -> None:
    with canned() as (url, server):
        environment(http_proxy=url)
        assert ask(kind, "http://models.example.org:8000", "info") == {}
    assert [path for path, _ in server.came] == ["http://models.example.org:8000/v1/info"]


def test_a_proxy_that_is_not_there_is_named(environment: Any) -> None:
    gone = f"127.0.0.1:{free_port()}"
    environment(http_proxy=f"http://me:secret@{gone}")
    with pytest.raises(
        Unreachable, match=rf"models.example.org.* through the proxy http://{gone} of the env"
    ) as caught:
        ask(Client, "http://models.example.org:8000", "info")
    assert "secret" not in str(caught.value)
