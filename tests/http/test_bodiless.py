"""HEAD: the head of what GET answers, on every route that has GET."""

import asyncio
import http.client
import json
import re
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest
from starlette.responses import StreamingResponse

from normtree.engine.projector import Projector
from normtree.http.app import create_app
from normtree.http.bodiless import Bodiless
from normtree.http.watching.exchange import Exchange
from normtree.settings import Settings

HANG_S = 60
VARYING = {"date", "x-request-id", "traceparent"}
OPEN = ("/docs", "/openapi.json")


def ask(line: http.client.HTTPConnection, method: str, path: str) -> tuple[int, dict[str, str], bytes]:
    line.request(method, path)
    answer = line.getresponse()
    body = answer.read()
    return answer.status, {k.lower(): v for k, v in answer.getheaders() if k.lower() not in VARYING}, body


@pytest.fixture
def line(place: tuple[str, int]) -> Iterator[http.client.HTTPConnection]:
    with closing(http.client.HTTPConnection(*place, timeout=HANG_S)) as found:
        yield found


def test_head_of_every_route(line: http.client.HTTPConnection) -> None:
    document = json.loads(ask(line, "GET", "/openapi.json")[2])
    paths = [path for path, item in document["paths"].items() if "get" in item]
    assert len(paths) > 8
    for path in [re.sub(r"{\w+}", "multilevel", path) for path in paths] + list(OPEN):
        if path in ("/metrics", "/v2/models/multilevel/stats"):
            continue  # counts itself
        status, headers, body = ask(line, "GET", path)
        assert ask(line, "HEAD", path) == (status, headers, b""), path
        assert body
    assert ask(line, "HEAD", "/metrics")[0] == 200
    assert ask(line, "HEAD", "/v2/health/live")[0] == 200


def test_methods_that_are_not_served_are_told(line: http.client.HTTPConnection) -> None:
    assert ask(line, "POST", "/v2/health/live")[1]["allow"] == "GET, HEAD"
    status, headers, body = ask(line, "HEAD", "/v1/project")
    assert (status, headers["allow"], body) == (405, "POST", b"")
    assert ask(line, "HEAD", "/nowhere")[0] == 404


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_is_counted_by_its_route_and_method(projector: Projector, method: str) -> None:
    seen: list[Exchange] = []

    async def main() -> None:
        app = create_app(projector, Settings(inline_only=True), seen.append)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
            await client.request(method, "/v2/health/live")

    asyncio.run(main())
    assert [(one.method, one.route, one.status) for one in seen] == [(method, "/v2/health/live", 200)]


def test_answer_without_an_end_is_over_with_its_head() -> None:
    """What streams it is told that nobody listens."""
    ended: list[bool] = []

    async def endless() -> Any:
        try:
            while True:
                yield b"x"
                await asyncio.sleep(0)
        finally:
            ended.append(True)

    async def main() -> None:
        sent: list[Any] = []
        over = asyncio.Event()

        async def receive() -> Any:
            await over.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)
            if message["type"] == "http.response.body" and not message["more_body"]:
                over.set()  # as a server does

        scope = {"type": "http", "method": "HEAD", "asgi": {"spec_version": "2.3"}}
        await Bodiless(StreamingResponse(endless()))(scope, receive, send)
        assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
        assert sent[1] == {"type": "http.response.body", "body": b"", "more_body": False}

    asyncio.run(main())
    assert ended == [True]
