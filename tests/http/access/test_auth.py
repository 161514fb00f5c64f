"""Keys: how they are made, written and read again, whom they let in, and what may be asked without one."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from normtree.cli import app as cli
from normtree.engine.projector import Projector
from normtree.http.app import create_app
from normtree.keys.key import add_key, new_key, read_key_file, read_keys
from normtree.keys.key_ring import KeyRing
from normtree.settings import Settings

HERE = "http://127.0.0.1"
PROTECTED = [("GET", "/v1/info"), ("POST", "/v1/project"), ("GET", "/nothing"), ("GET", "/docsx"), ("GET", "/v2")]


def ask(projector: Projector, requests: list[tuple[str, str, Mapping[str, str]]], **given: Any) -> list[httpx.Response]:
    async def main() -> list[httpx.Response]:
        app = create_app(projector, Settings(inline_only=True, **given))
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=HERE) as client,
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


@pytest.mark.parametrize("text", [";", "#", "# nothing", " ; ", " ", "\n", "\ufeff"])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_keys_that_hold_no_key_are_refused(tmp_path: Path, text: str, host: str) -> None:
    (tmp_path / "keys").write_text(text)
    for given in ({"keys": text}, {"keys_file": tmp_path / "keys"}):
        with pytest.raises(ValidationError, match="wanted a key or more, got none"):
            Settings.model_validate({"host": host, **given})


@pytest.mark.parametrize("mode", [0o666, 0o622, 0o620])
def test_a_file_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "keys"
    file.write_text(f"{new_key('a')[1]}\n")
    file.chmod(mode)
    told = f"got mode {mode:o}; chmod go-w"
    with pytest.raises(ValidationError, match=told):
        Settings(keys_file=file)
    with pytest.raises(ValueError, match=told):
        add_key(new_key("b")[1], file)
    file.chmod(0o640)
    add_key(new_key("b")[1], file)
    assert [key.name for key in read_key_file(file)] == ["a", "b"]


def test_a_file_that_is_too_long_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("#" * (2**22 + 1))
    with pytest.raises(ValidationError, match="wanted at most 4194304 bytes of keys, got more"):
        Settings(keys_file=file)


def test_a_file_that_is_none_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for file in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(ValidationError, match=r"wanted a regular file|Is a directory"):
            Settings(keys_file=file)


def test_what_editors_leave_in_a_file(tmp_path: Path) -> None:
    key = new_key("a")[1]
    file = tmp_path / "keys"
    file.write_bytes(f"\ufeff{key}\r\n".encode())
    assert read_key_file(file) == (key,)
    file.write_text(str(key))  # its last line has no end
    add_key(new_key("b")[1], file)
    assert len(read_key_file(file)) == 2
    with pytest.raises(ValueError, match="line 3: the name a occurs twice"):
        add_key(new_key("a")[1], file)
    assert len(read_key_file(file)) == 2
    file.write_bytes(b"\xff")
    with pytest.raises(ValueError, match="wanted lines of keys in UTF-8"):
        read_key_file(file)


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
    admin = new_key("d", admin=True)[1]
    assert str(admin).endswith(" admin")
    assert read_keys(str(admin), "keys") == (admin,)
    assert read_keys(f"# keys\n{a}\n\n  {b}  # b's\n", "keys") == read_keys(f"{a};{b}", "keys") == (a, b)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nt_secret", "line 1: wanted NAME sha256:HEX"),
        (f"a sha256:{'0' * 64} adm", "line 1: wanted NAME sha256:HEX"),
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


def test_file_is_read_again_when_it_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "keys"
    (old, a), (new, b) = new_key("a"), new_key("b")
    file.write_text(f"{a}\n")
    ring = KeyRing("", file)
    assert (ring.find(old), ring.find(new)) == (a, None)
    before = file.stat()
    file.write_text(f"{b}\n")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # and of the same size
    ring.look_again()
    assert (ring.find(old), ring.find(new)) == (None, b)
    assert (ring.holds(a), ring.holds(b)) == (False, True)
    spoilt = (
        lambda: file.write_text("broken"),
        lambda: file.write_text("# none"),
        lambda: file.chmod(0o666),
        file.unlink,
    )
    for spoil in spoilt:
        spoil()
        for _ in range(3):
            ring.look_again()
        assert ring.find(new) == b
    assert caplog.text.count("keys stay as they were") == 1  # once, and again after a minute
    file.write_text(f"{a}\n")
    ring.look_again()
    assert (ring.find(old), ring.find(new)) == (a, None)


def test_a_service_watches_its_file(projector: Projector, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    (old, a), (new, b) = new_key("a"), new_key("b")
    file.write_text(f"{a}\n")

    async def main() -> None:
        app = create_app(projector, Settings(inline_only=True, keys_file=file))
        transport = httpx.ASGITransport(app)
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url=HERE) as client:
            file.write_text(f"{b}\n")
            while (await client.get("/v1/info", headers=bearer(new))).status_code != 200:
                await asyncio.sleep(0.05)
            assert (await client.get("/v1/info", headers=bearer(old))).status_code == 403

    asyncio.run(main())


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
    assert CliRunner().invoke(cli, ["key", "new", "root", "--admin", "--keys-file", str(file)]).exit_code == 0
    assert [(key.name, key.admin) for key in read_key_file(file)] == [("a", False), ("b", False), ("root", True)]
