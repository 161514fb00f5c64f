"""Keys: how they are made, written and read again, whom they let in, and what may be asked without one."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import Any

import httpx
import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from normtree import keys
from normtree.cli import app as cli
from normtree.engine.projector import Projector
from normtree.http.app import create_app
from normtree.keys import KeyRing, new_key, read_keys
from normtree.settings import Settings

PROTECTED = [("GET", "/v1/info"), ("POST", "/v1/project"), ("GET", "/nothing"), ("GET", "/docsx"), ("GET", "/v2")]


def ask(projector: Projector, requests: list[tuple[str, str, Mapping[str, str]]], **given: Any) -> list[httpx.Response]:
    async def main() -> list[httpx.Response]:
        app = create_app(projector, Settings(inline_only=True, **given))
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
        ):
            return [await client.request(method, path, headers=headers) for method, path, headers in requests]

    return asyncio.run(main())


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


@pytest.mark.parametrize(("method", "path"), PROTECTED)
def test_key_is_asked_for_and_checked(projector: Projector, method: str, path: str) -> None:
    secret, key = new_key("ada")
    other, _ = new_key("ada")
    cases = [{}, {"Authorization": "Basic YTpi"}, {"Authorization": "Bearer"}, bearer(other), bearer(key.digest.hex())]
    without, basic, empty, wrong, digest = ask(projector, [(method, path, case) for case in cases], keys=str(key))
    for answer in (without, basic, empty):
        assert (answer.status_code, answer.json()["code"]) == (401, "key-missing")
        assert answer.headers["www-authenticate"].startswith("Bearer")
    for answer in (wrong, digest):
        assert (answer.status_code, answer.json()["code"]) == (403, "key-refused")
        assert "www-authenticate" not in answer.headers
        assert secret not in answer.text
        assert other not in answer.text


def test_key_opens(projector: Projector) -> None:
    secret, key = new_key("ada")
    ways = [bearer(secret), {"authorization": f"bearer  {secret}"}]
    for answer in ask(projector, [("GET", "/v1/info", way) for way in ways], keys=str(key)):
        assert answer.status_code == 200
        assert secret not in answer.text


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/health/ready", "/openapi.json", "/docs"])
def test_what_is_open_to_all(projector: Projector, path: str) -> None:
    assert ask(projector, [("GET", path, {})], keys=str(new_key("ada")[1]))[0].status_code == 200


def test_no_key_is_asked_for_where_none_is_known(projector: Projector) -> None:
    assert ask(projector, [("GET", "/v1/info", {})])[0].status_code == 200


def test_file_without_keys_opens_to_nobody(projector: Projector, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# none yet\n")
    answer, *_ = ask(projector, [("GET", "/v1/info", bearer("nt_x"))], keys_file=tmp_path / "keys")
    assert answer.status_code == 403


@pytest.mark.parametrize(
    ("length", "connection"),
    [("1000", None), ("262144", None), ("262145", "close"), ("9" * 20, "close"), ("x", "close")],
)
def test_body_is_not_waited_for(projector: Projector, length: str, connection: str | None) -> None:
    answer, *_ = ask(projector, [("POST", "/v1/project", {"Content-Length": length})], keys=str(new_key("ada")[1]))
    assert answer.status_code == 401
    assert answer.headers.get("connection") == connection  # a short rest is dropped as it comes


def test_lines() -> None:
    (first, a), (second, b) = new_key("a"), new_key("b.c-d_9")
    assert first != second
    assert read_keys(f"# keys\n{a}\n\n  {b}  # b's\n", "keys") == read_keys(f"{a};{b}", "keys") == (a, b)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nt_secret", "line 1: wanted NAME sha256:HEX"),
        ("\na sha256:12", "line 2: wanted NAME sha256:HEX"),
        (f"a sha256:{'0' * 64}\na sha256:{'1' * 64}", "line 2: the name a occurs twice"),
    ],
)
def test_lines_that_are_no_keys(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_keys(text, "keys")
    assert "secret" not in str(caught.value)
    (tmp_path / "keys").write_text(text)
    for given in ({"keys": text}, {"keys_file": tmp_path / "keys"}):
        with pytest.raises(ValidationError, match=message):
            Settings.model_validate(given)


@pytest.mark.parametrize("name", ["", "a b", "ü", "x" * 65, "a\n"])
def test_names_that_are_not_permitted(name: str) -> None:
    with pytest.raises(ValueError, match="name: wanted"):
        new_key(name)


def test_missing_file_is_found_out_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="No such file"):
        Settings(keys_file=tmp_path / "none")


def test_file_is_read_again_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file, now = tmp_path / "keys", monotonic()
    monkeypatch.setattr(keys, "monotonic", lambda: now)
    (old, a), (new, b) = new_key("a"), new_key("b")
    file.write_text(str(a))
    ring = KeyRing("", file)
    assert (ring.name_of(old), ring.name_of(new)) == ("a", None)
    file.write_text(f"{b}\n")
    assert ring.name_of(new) is None  # not looked at again within the second
    now += 2
    assert (ring.name_of(old), ring.name_of(new)) == (None, "b")
    for spoil in (lambda: file.write_text("broken"), file.unlink):
        spoil()
        now += 2
        assert ring.name_of(new) == "b"
        assert "keys stay as they were" in caplog.text


def test_command_makes_a_key_that_opens(projector: Projector, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    secrets = []
    for name in ("a", "b"):
        done = CliRunner().invoke(cli, ["key", "new", name, "--keys-file", str(file)])
        secret_line, line = done.stdout.splitlines()
        secrets.append(secret_line.removeprefix("key: "))
        assert line.removeprefix("line: ") in file.read_text()
    assert file.stat().st_mode & 0o077 == 0
    assert not any(secret in file.read_text() for secret in secrets)
    answers = ask(projector, [("GET", "/v1/info", bearer(secret)) for secret in secrets], keys_file=file)
    assert [answer.status_code for answer in answers] == [200, 200]
    assert CliRunner().invoke(cli, ["key", "new", "a b"]).exit_code == 2
