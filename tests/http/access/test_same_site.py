"""Browsers: what a page of another site could send is refused, and what no page sends is served as ever."""

import asyncio
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import ValidationError

from normtree.engine.projector import Projector
from normtree.http.app import create_app
from normtree.keys.key import new_key
from normtree.settings import Settings

HERE = "http://127.0.0.1:8000"
EVIL = "http://evil.example"
PLAN = b'{"shape": [3, 4], "radius": 1}'
JSON = {"Content-Type": "application/json"}
Asked = tuple[str, str, Mapping[str, str]]


@cache
def app_of(projector: Projector, **given: Any) -> FastAPI:
    """Make an application once for all who ask it; none of them needs its life."""
    return create_app(projector, Settings(**{"inline_only": True, **given}))


def ask(projector: Projector, requests: Sequence[Asked], **given: Any) -> list[tuple[int, str | None]]:
    """Ask one after another; return each answer's status, and its code where it is a problem."""

    async def main() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app_of(projector, **given))
        async with httpx.AsyncClient(transport=transport, base_url=HERE) as client:
            return [await client.request(method, path, headers=head, content=PLAN) for method, path, head in requests]

    return [(answer.status_code, answer.json().get("code")) for answer in asyncio.run(main())]


ACTS = [
    ("POST", "/v1/plan"),
    ("POST", "/v1/project"),
    ("POST", "/v1/jobs"),
    ("DELETE", "/v1/jobs/x"),
    ("POST", "/v2/models/multilevel/infer"),
    ("POST", "/v2/repository/index"),
    ("POST", "/v2/systemsharedmemory/region/a/register"),
    ("POST", "/v2/systemsharedmemory/unregister"),
]
FOREIGN = [
    {"Origin": EVIL},
    {"Origin": "null"},
    {"Origin": "http://[::1"},
    {"Origin": "http://127.0.0.1:3000"},
    {"Origin": EVIL, "Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Origin": "http://localhost:3000", "Sec-Fetch-Site": "same-site"},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_a_page_of_another_site_changes_nothing(projector: Projector, headers: dict[str, str]) -> None:
    asked = [(*act, {**headers, "Content-Type": kind}) for act in ACTS for kind in ("text/plain", "application/json")]
    assert set(ask(projector, asked, shared_memory=True)) == {(403, "cross-site")}


def test_whoever_is_no_foreign_page_is_served(projector: Projector) -> None:
    own = [
        {},
        {"Origin": HERE},
        {"Origin": HERE, "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "https://behind.example", "Sec-Fetch-Site": "same-origin"},  # a proxy has put another Host
    ]
    assert ask(projector, [("POST", "/v1/plan", {**JSON, **head}) for head in own]) == [(200, None)] * len(own)
    reads = [("GET", "/v1/info", head) for head in FOREIGN]  # their answers are kept from the page by its browser
    assert ask(projector, reads) == [(200, None)] * len(reads)


def test_pages_of_origins_that_are_set_are_served(projector: Projector) -> None:
    lab, evil = {"Origin": "https://lab.example", "Sec-Fetch-Site": "cross-site"}, {"Origin": EVIL}
    posts = [("POST", "/v1/plan", {**JSON, **head}) for head in (lab, evil)]
    assert ask(projector, posts, cors_origins="https://lab.example") == [(200, None), (403, "cross-site")]
    assert ask(projector, posts, cors_origins="*") == [(200, None), (200, None)]


def test_a_page_with_a_key_is_a_page_of_another_site_still(projector: Projector) -> None:
    secret, key = new_key("ada")
    head = {**JSON, "Authorization": f"Bearer {secret}", "Origin": EVIL}
    assert ask(projector, [("POST", "/v1/plan", head)], keys=str(key)) == [(403, "cross-site")]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "[2001:db8::1]", "x"])
def test_a_name_that_a_page_makes_mean_this_machine_is_refused(projector: Projector, host: str) -> None:
    asked = [
        (*act, {"Host": host, **JSON}) for act in [*ACTS, ("GET", "/v1/info"), ("GET", "/v1/jobs"), ("GET", "/v2")]
    ]
    assert set(ask(projector, asked)) == {(421, "host-refused")}
    assert ask(projector, [("GET", "/v2/health/ready", {"Host": host})]) == [(200, None)]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8000", "LOCALHOST", "[::1]:8000", "localhost."])
def test_loopback_s_own_names_are_served(projector: Projector, host: str) -> None:
    assert ask(projector, [("GET", "/v1/info", {"Host": host})]) == [(200, None)]


def test_names_that_are_set_are_served_besides(projector: Projector) -> None:
    names = [("GET", "/v1/info", {"Host": host}) for host in ("tree.example:8000", "127.0.0.1", "evil.example")]
    assert ask(projector, names, allowed_hosts="tree.example, other.example") == [
        (200, None), (200, None), (421, "host-refused"),
    ]  # fmt: skip


def test_other_names_are_asked_for_where_a_key_is(projector: Projector) -> None:
    secret, key = new_key("ada")
    head = {"Host": "tree.example", "Authorization": f"Bearer {secret}"}
    assert ask(projector, [("GET", "/v1/info", head)], keys=str(key)) == [(200, None)]
    assert ask(projector, [("GET", "/v1/info", head)], keys=str(key), allowed_hosts="a.example") == [
        (421, "host-refused")
    ]
    assert ask(projector, [("GET", "/v1/info", {"Host": "x"})], host="0.0.0.0", insecure=True) == [(200, None)]


@pytest.mark.parametrize("kind", ["text/plain", "Text/plain; charset=utf-8", "multipart/form-data; boundary=x"])
def test_what_pages_send_unasked_is_no_json(projector: Projector, tmp_path: Path, kind: str) -> None:
    paths = [
        path for method, path in ACTS if method == "POST" and not path.endswith(("project", "index", "unregister"))
    ]
    asked = [("POST", path, {"Content-Type": kind}) for path in paths]
    answers = ask(projector, asked, shared_memory=True, jobs_roots=str(tmp_path))
    assert set(answers) == {(415, "unsupported-media-type")}


def test_a_recipe_is_declared(projector: Projector, tmp_path: Path) -> None:
    (answer,) = ask(projector, [("POST", "/v1/jobs", {})], jobs_roots=str(tmp_path))
    assert answer == (415, "unsupported-media-type")


@pytest.mark.parametrize("hosts", ["http://a", "a:80", "a b", "*"])
def test_names_that_are_none(hosts: str) -> None:
    with pytest.raises(ValidationError, match="wanted names or addresses without ports"):
        Settings(allowed_hosts=hosts)
