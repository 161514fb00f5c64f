"""The documentation: served by us alone, seen in a browser, and complete."""

import asyncio
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx
import pytest

from normtree.engine.projector import Projector
from normtree.http.app import create_app
from normtree.keys.key import new_key
from normtree.settings import Settings

CHROMIUM = shutil.which("chromium")
# No sandbox, since tests may run as root; nothing that would call home.
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--virtual-time-budget=10000",
)  # fmt: skip


def get(projector: Projector, *paths: str, **given: Any) -> list[httpx.Response]:
    async def main() -> list[httpx.Response]:
        app = create_app(projector, Settings(inline_only=True, **given))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
            return [await client.get(path) for path in paths]

    return asyncio.run(main())


def test_page_and_its_parts_come_from_us(projector: Projector) -> None:
    (page,) = get(projector, "/docs")
    links = re.findall(r"""(?:src|href|url)(?:=|:\s*)["']([^"']+)""", page.text)
    assert len(links) == 4
    paths = [urlsplit(urljoin("http://test/some/prefix/docs", link)).path for link in links]
    assert all(path.startswith("/some/prefix/") for path in paths), "behind a proxy that serves us under a path"
    assert "'self'" in page.headers["content-security-policy"]
    assert "http" not in page.headers["content-security-policy"]
    for part in get(projector, *(path.removeprefix("/some/prefix") for path in paths)):
        assert part.status_code == 200
        assert part.content


def test_nothing_else_lies_beside_the_parts(projector: Projector) -> None:
    paths = ("/docs/redoc.standalone.js", "/docs/..%2fcore.py", "/docs/", "/redoc")
    assert [answer.status_code for answer in get(projector, *paths)] == [404] * len(paths)


def test_document_tells_of_keys_and_errors(projector: Projector) -> None:
    (answer,) = get(projector, "/openapi.json", keys=str(new_key("ada")[1]))
    paths = answer.json()["paths"]
    project = paths["/v1/project"]["post"]
    assert project["security"] == [{"key": []}]
    assert {"401", "403", "413", "422", "429", "503"} <= project["responses"].keys()
    assert project["responses"]["401"]["headers"].keys() == {"X-Request-Id", "traceparent", "WWW-Authenticate"}
    assert "Retry-After" in project["responses"]["429"]["headers"]
    assert all(parameter["description"] for parameter in project["parameters"])
    told = {"Server-Timing", "X-Normtree-Timing", "X-Normtree-Certificate", "X-Normtree-Converted", "X-Normtree-Trace"}
    assert told < project["responses"]["200"]["headers"].keys()
    assert "Accept-Post" in project["responses"]["415"]["headers"]
    infer = paths["/v2/models/{name}/infer"]["post"]["responses"]["200"]
    assert "Inference-Header-Content-Length" in infer["headers"]
    assert "503" in paths["/v2/models/{name}/ready"]["get"]["responses"]
    live = paths["/v2/health/live"]["get"]
    assert live["security"] == []
    assert not {"401", "403"} & live["responses"].keys()


def test_document_asks_for_no_key_where_none_is_needed(projector: Projector) -> None:
    (answer,) = get(projector, "/openapi.json")
    for item in answer.json()["paths"].values():
        for operation in item.values():
            assert operation["security"] == []
            assert "401" not in operation["responses"]


def test_every_error_is_a_problem(projector: Projector) -> None:
    (answer,) = get(projector, "/openapi.json")
    document = answer.json()
    assert "HTTPValidationError" not in document["components"]["schemas"]
    for item in document["paths"].values():
        for operation in item.values():
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    assert response["content"].keys() == {"application/problem+json"}


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
def test_browser_shows_it(client: httpx.Client, tmp_path: Path) -> None:
    shown = subprocess.run(
        [str(CHROMIUM), *FLAGS, f"--user-data-dir={tmp_path}", "--dump-dom", f"{client.base_url}/docs"],
        capture_output=True, text=True, check=True, timeout=90,
    ).stdout  # fmt: skip
    assert 'data-path="/v1/project"' in shown
    assert "Failed to load" not in shown
