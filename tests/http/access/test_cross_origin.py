"""Pages of other sites: nothing unless their origin is set, and then all that a client needs."""

import asyncio
import io
from typing import Any

import httpx
import numpy as np
import pytest
from pydantic import ValidationError

from normtree.engine.projector import Projector
from normtree.http.app import create_app
from normtree.keys.key import new_key
from normtree.settings import Settings

PAGE, OTHER = "https://pages.example", "https://evil.example"
SECRET, KEY = new_key("ada")
NPY = {"Content-Type": "application/x-npy"}
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}


def npy(array: Any) -> bytes:
    body = io.BytesIO()
    np.save(body, array)
    return body.getvalue()


def ask(projector: Projector, *requests: dict[str, Any], **given: Any) -> list[httpx.Response]:
    async def main() -> list[httpx.Response]:
        app = create_app(projector, Settings(inline_only=True, **given))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
            return [await client.request(**request) for request in requests]

    return asyncio.run(main())


def preflight(origin: str) -> dict[str, Any]:
    return {"method": "OPTIONS", "url": "/v1/project", "headers": {"Origin": origin, **PREFLIGHT}}


def post(origin: str, **headers: str) -> dict[str, Any]:
    content = npy(np.ones((3, 4)))
    return {
        "method": "POST",
        "url": "/v1/project?radius=2",
        "content": content,
        "headers": {"Origin": origin, **NPY, **headers},
    }


def test_nobody_may_unless_set(projector: Projector) -> None:
    refused, answered = ask(projector, preflight(PAGE), post(PAGE))
    assert refused.status_code == 405
    for answer in (refused, answered):
        assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_pages_of_an_origin_that_is_set(projector: Projector) -> None:
    asked, answered, unkeyed, wrong = ask(
        projector,
        preflight(PAGE),
        post(PAGE, Authorization=f"Bearer {SECRET}"),
        post(PAGE),
        {**post(PAGE, Authorization=f"Bearer {SECRET}"), "url": "/v1/project?radius=-1"},
        cors_origins=f"https://first.example, {PAGE}",
        keys=str(KEY),
    )
    assert asked.status_code == 200
    assert {"POST", "DELETE"} <= set(asked.headers["access-control-allow-methods"].split(", "))
    assert "authorization" in asked.headers["access-control-allow-headers"]
    assert (answered.status_code, unkeyed.status_code, wrong.status_code) == (200, 401, 422)
    for answer in (asked, answered, unkeyed, wrong):
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert "Origin" in answer.headers["vary"]
        assert "access-control-allow-credentials" not in answer.headers
        assert answer.headers["x-request-id"]


def test_pages_of_other_origins(projector: Projector) -> None:
    asked, answered = ask(projector, preflight(OTHER), post(OTHER), cors_origins=PAGE)
    assert asked.status_code == 400
    for answer in (asked, answered):
        assert "access-control-allow-origin" not in answer.headers


def test_any_origin(projector: Projector) -> None:
    for answer in ask(projector, preflight(OTHER), post(OTHER), cors_origins="*"):
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "*")


def test_every_header_of_the_interface_can_be_read(projector: Projector) -> None:
    document, answered = ask(
        projector, {"method": "GET", "url": "/openapi.json"}, post(PAGE), cors_origins=PAGE, keys=""
    )
    exposed = {name.lower() for name in answered.headers["access-control-expose-headers"].split(", ")}
    told = {
        name.lower()
        for item in document.json()["paths"].values()
        for operation in item.values()
        for response in operation["responses"].values()
        for name in response.get("headers", {})
    }
    assert {"server-timing", "x-normtree-timing", "retry-after"} <= told <= exposed


@pytest.mark.parametrize("origins", ["", "*", PAGE, f"{PAGE},http://localhost:3000", "http://[::1]:8080, null-app://x"])
def test_origins(origins: str) -> None:
    assert ",".join(Settings(cors_origins=origins).origins) == origins.replace(" ", "")


@pytest.mark.parametrize(
    "origins", ["pages.example", f"{PAGE}/", f"{PAGE};{OTHER}/x", "https://u@x", f"{PAGE} {OTHER}"]
)
def test_origins_that_are_none(origins: str) -> None:
    with pytest.raises(ValidationError, match="wanted `\\*`, or origins"):
        Settings(cors_origins=origins)
