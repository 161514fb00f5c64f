"""The application without a server: what a client can do to it between two messages, and that nothing is kept."""

import asyncio
import io
import json
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from starlette.types import Message

import normtree_kernels as nk
from normtree.engine.cancel import Cancel
from normtree.engine.projector import Projector
from normtree.http.app import create_app
from normtree.settings import Settings

HANG_S = 60
Y = np.random.default_rng(0).standard_normal((300, 400)).astype(np.float32)
Y_LARGE = np.random.default_rng(0).standard_normal((1024, 1024)).astype(np.float32)


def npy(array: Any) -> bytes:
    body = io.BytesIO()
    np.save(body, array)
    return body.getvalue()


def pieces(body: bytes, size: int) -> list[Message]:
    return [
        {"type": "http.request", "body": body[start : start + size], "more_body": start + size < len(body)}
        for start in range(0, len(body), size)
    ]


@dataclass
class Client:
    """One request as an ASGI server would bring it, and what was sent to it."""

    messages: Iterable[Message]
    length: int
    path: str = "/v1/project"
    query: str = "radius=2"
    method: str = "POST"
    on_send: Callable[[Message], None] = lambda _: None
    sent: list[Message] = field(default_factory=list)

    async def call(self, app: FastAPI, leaves: asyncio.Event | None = None) -> None:
        coming = iter(self.messages)

        async def receive() -> Message:
            try:
                return next(coming)
            except StopIteration:
                await (leaves or asyncio.Event()).wait()
                return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            self.on_send(message)
            self.sent.append(message)

        headers = [(b"content-type", b"application/x-npy"), (b"content-length", str(self.length).encode())]
        scope = {
            "type": "http",
            "method": self.method,
            "path": self.path,
            "query_string": self.query.encode(),
            "headers": headers,
        }
        await app(scope, receive, send)

    @property
    def status(self) -> int:
        found: int = self.sent[0]["status"]
        return found

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.sent[1:])

    def problem(self, status: int, code: str) -> dict[str, Any]:
        assert self.status == status, self.body
        found: dict[str, Any] = json.loads(self.body)
        assert (found["status"], found["code"]) == (status, code)
        return found


def whole(array: Any, size: int = 2**16) -> Client:
    body = npy(array)
    return Client(pieces(body, size), len(body))


@asynccontextmanager
async def running(projector: Projector, **given: Any) -> AsyncIterator[FastAPI]:
    app = create_app(projector, Settings(inline_only=True, **given))
    async with app.router.lifespan_context(app):
        yield app


def ask(projector: Projector, client: Client, **given: Any) -> None:
    async def main() -> None:
        async with running(projector, **given) as app:
            await client.call(app)

    asyncio.run(main())
    assert projector.arena.leased_bytes == 0


@pytest.mark.parametrize("size", [1, 7, 128, 129, 10**9])
def test_pieces_of_any_size(projector: Projector, size: int) -> None:
    y = Y[:20, :30]
    client = whole(y, size)
    ask(projector, client)
    np.testing.assert_array_equal(np.load(io.BytesIO(client.body)), nk.project(y, "l1,linf", 2.0))


def test_last_part_is_a_copy_and_segment_is_held_until_it_is_through(projector: Projector) -> None:
    client = whole(Y_LARGE)
    held = []
    client.on_send = lambda _: held.append(projector.arena.leased_bytes > 0)
    ask(projector, client)
    *_, last, end = client.sent
    assert [type(message["body"]) for message in client.sent[2:-2]] == [memoryview] * 3
    assert isinstance(last["body"], bytes)
    assert len(last["body"]) == 2**20
    assert end == {"type": "http.response.body", "body": b"", "more_body": False}
    assert all(held)


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_client_that_goes_away_while_sending(projector: Projector, count: int) -> None:
    client = whole(Y)
    client.messages = [*list(client.messages)[:count], {"type": "http.disconnect"}]
    ask(projector, client)
    client.problem(400, "malformed-body")


@pytest.mark.parametrize("count", [0, 1, 3])
def test_client_that_goes_away_while_reading(projector: Projector, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its segment is not used again: the server may still flush slices of it."""
    client = whole(Y_LARGE)
    retired: list[str] = []
    retire = projector.arena.retire

    def note(name: str) -> None:
        retired.append(name)
        retire(name)

    monkeypatch.setattr(projector.arena, "retire", note)

    def go_away(_: Message) -> None:
        if len(client.sent) == count:
            raise ConnectionResetError

    client.on_send = go_away
    with pytest.raises(ConnectionResetError):
        ask(projector, client)
    assert projector.arena.leased_bytes == 0
    assert [Path(name).exists() for name in retired] == [False]


def test_body_that_does_not_come(projector: Projector) -> None:
    client = whole(Y)
    client.messages = list(client.messages)[:2]
    ask(projector, client, body_timeout_s=0.1)
    assert "131072 of 480128 bytes arrived in 0.1 s" in client.problem(408, "body-timeout")["detail"]
    assert client.headers[b"connection"] == b"close"


def test_header_that_does_not_come(projector: Projector) -> None:
    client = whole(Y)
    client.messages = []
    ask(projector, client, body_timeout_s=0.1)
    client.problem(408, "body-timeout")


def test_body_beyond_its_declared_length(projector: Projector) -> None:
    client = whole(Y)
    client.messages = [*pieces(npy(Y), 2**16)[:-1], {"type": "http.request", "body": bytes(2**16), "more_body": True}]
    ask(projector, client)
    client.problem(400, "malformed-body")


def test_arena_that_is_full(projector: Projector) -> None:
    with projector.arena.lease(projector.arena.capacity_bytes // 2):
        body = npy(np.zeros((2048, 4096), np.float32))
        client = Client(pieces(body, 2**16), len(body))

        async def main() -> None:
            async with running(projector) as app:
                await client.call(app)

        asyncio.run(main())
    assert projector.arena.leased_bytes == 0
    client.problem(503, "arena-full")
    assert int(client.headers[b"retry-after"]) > 0


def test_not_ready(projector: Projector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projector, "ready", False)
    client = whole(Y)
    ask(projector, client)
    client.problem(503, "not-ready")
    assert client.headers[b"retry-after"] == b"1"


class Slow:
    """A projector's ``project`` that takes its time first, as one under load would: until it is let go on."""

    def __init__(self, projector: Projector) -> None:
        self._project = projector.project
        self._let_go = threading.Event()
        self.began = asyncio.Event()
        self.loop = asyncio.get_running_loop()

    def __call__(self, *args: Any, **given: Any) -> Any:
        self.loop.call_soon_threadsafe(self.began.set)
        assert self._let_go.wait(HANG_S)
        return self._project(*args, **given)

    def go_on(self) -> None:
        self._let_go.set()


def test_deadline(projector: Projector, monkeypatch: pytest.MonkeyPatch) -> None:
    client = whole(Y)

    async def main() -> None:
        slow = Slow(projector)
        monkeypatch.setattr(projector, "project", slow)
        async with running(projector, deadline_s=0.2) as app:
            await client.call(app)
            assert projector.arena.leased_bytes > 0  # the thread still writes there
            slow.go_on()

    asyncio.run(main())
    assert projector.arena.leased_bytes == 0
    assert client.problem(504, "deadline-exceeded")["limit"] == 0.2


def test_cancelled_while_working(projector: Projector, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        slow = Slow(projector)
        monkeypatch.setattr(projector, "project", slow)
        async with running(projector) as app:
            request = asyncio.create_task(whole(Y).call(app))
            await slow.began.wait()
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request
            assert projector.arena.leased_bytes > 0
            slow.go_on()

    asyncio.run(main())
    assert projector.arena.leased_bytes == 0


def test_client_that_leaves_while_working(projector: Projector, monkeypatch: pytest.MonkeyPatch) -> None:
    """The work is asked to end, and its memory is held until it has."""
    asked: list[Cancel] = []

    async def main() -> None:
        slow = Slow(projector)

        def project(*args: Any, **given: Any) -> Any:
            asked.append(given["cancel"])
            return slow(*args, **given)

        monkeypatch.setattr(projector, "project", project)
        client = whole(Y)
        async with running(projector) as app:
            await client.call(app, leaves=slow.began)
            assert asked[0].is_set
            assert projector.arena.leased_bytes > 0
            slow.go_on()
        client.problem(499, "cancelled")

    asyncio.run(main())
    assert projector.arena.leased_bytes == 0


def test_health_is_answered_while_work_goes_on(projector: Projector, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        slow = Slow(projector)
        monkeypatch.setattr(projector, "project", slow)
        async with running(projector) as app:
            requests = [asyncio.create_task(whole(Y).call(app)) for _ in range(5)]  # more than there are threads
            await slow.began.wait()
            health = Client([], 0, path="/v2/health/ready", query="", method="GET")
            await health.call(app)
            assert health.status == 200
            slow.go_on()
            await asyncio.gather(*requests)

    asyncio.run(main())


def test_bug_is_logged_and_not_told(projector: Projector, caplog: pytest.LogCaptureFixture) -> None:
    client = Client([], 0, path="/bug", query="")

    async def bug() -> None:
        raise ValueError("something internal")

    async def main() -> None:
        async with running(projector) as app:
            app.add_api_route("/bug", bug, methods=["POST"])
            await client.call(app)

    with caplog.at_level(logging.ERROR, "normtree"):
        asyncio.run(main())
    problem = client.problem(500, "internal-error")
    assert b"something internal" not in client.body
    assert client.headers[b"x-request-id"].decode() == problem["request_id"]
    assert problem["request_id"] in caplog.text
    assert "something internal" in caplog.text


def test_framework_validation_does_not_echo(projector: Projector) -> None:
    client = Client([], 0, path="/square", query="side=secret")

    async def square(side: int) -> int:
        return side * side

    async def main() -> None:
        async with running(projector) as app:
            app.add_api_route("/square", square, methods=["POST"])
            await client.call(app)

    asyncio.run(main())
    assert client.problem(422, "invalid-parameter")["pointer"] == "query.side"
    assert b"secret" not in client.body


def test_source_that_was_given_back_early_is_not_given_back_again(projector: Projector) -> None:
    """Segments are pooled: by the end of the answer, its source may be another request's."""
    client = whole(Y)
    others = []

    def lease(message: Message) -> None:
        if message["type"] == "http.response.start":
            others.append(projector.arena.lease(Y.nbytes))

    client.on_send = lease

    async def main() -> None:
        async with running(projector) as app:
            await client.call(app)

    asyncio.run(main())
    assert projector.arena.leased_bytes > 0
    others[0].release()
    assert projector.arena.leased_bytes == 0
