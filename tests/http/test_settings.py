"""Settings: defaults of this machine, the environment, and what is refused."""

import os

import pytest
from pydantic import ValidationError

from normtree.environment import unknown
from normtree.settings import Settings


def test_defaults_fit_the_machine() -> None:
    settings = Settings()
    assert 1 <= settings.workers <= (os.cpu_count() or 1)
    assert 0 < settings.arena_bytes <= 4 * 2**30
    assert (settings.host, settings.port, settings.insecure) == ("127.0.0.1", 8000, False)


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORMTREE_WORKERS", "3")
    monkeypatch.setenv("NORMTREE_INLINE_ONLY", "true")
    settings = Settings(port=1)
    assert (settings.workers, settings.inline_only, settings.port) == (3, True, 1)


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_what_is_empty_is_not_given(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    before = getattr(Settings(), name)
    monkeypatch.setenv(f"NORMTREE_{name.upper()}", "")
    assert getattr(Settings(), name) == before


LINKS = {
    "NORMTREE_PORT": "tcp://10.0.0.1:8000",
    "NORMTREE_SERVICE_HOST": "10.0.0.1",
    "NORMTREE_SERVICE_PORT": "8000",
    "NORMTREE_SERVICE_PORT_HTTP": "8000",
    "NORMTREE_PORT_8000_TCP": "tcp://10.0.0.1:8000",
    "NORMTREE_PORT_8000_TCP_ADDR": "10.0.0.1",
    "NORMTREE_PORT_8000_TCP_PORT": "8000",
    "NORMTREE_PORT_8000_TCP_PROTO": "tcp",
    "NORMTREE_HEAD_SVC_SERVICE_HOST": "10.0.0.2",
    "NORMTREE_HEAD_SVC_PORT": "tcp://10.0.0.2:6379",
}


def test_links_of_a_service_of_our_name_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in LINKS.items():
        monkeypatch.setenv(name, value)
    assert Settings().port == 8000
    assert unknown(LINKS, Settings.model_fields) == []
    monkeypatch.setenv("NORMTREE_PORT", "9000")
    assert Settings().port == 9000
    monkeypatch.setenv("NORMTREE_PORT", "tcp")
    with pytest.raises(ValidationError, match="port"):
        Settings()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("KEY_FILE", "KEYS_FILE"),
        ("KEYSFILE", "KEYS_FILE"),
        ("WORKER", "WORKERS"),
        ("ROOTS", "JOBS_ROOTS"),
        ("KEY", "KEYS"),
    ],
)
def test_a_misspelt_name_is_refused_with_the_nearest(monkeypatch: pytest.MonkeyPatch, name: str, meant: str) -> None:
    monkeypatch.setenv(f"NORMTREE_{name}", "x")
    with pytest.raises(ValueError, match=f"NORMTREE_{name} is no setting; did you mean NORMTREE_{meant}\\?"):
        Settings()


def test_a_name_that_is_like_none_is_only_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORMTREE_VERSION", "x")
    assert Settings().port == 8000
    assert unknown(["NORMTREE_VERSION", "PATH"], Settings.model_fields) == [("NORMTREE_VERSION", None)]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_loopback_needs_no_permission(host: str) -> None:
    assert Settings(host=host).host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", ""])
def test_other_addresses_do(host: str) -> None:
    with pytest.raises(ValidationError, match="the service has no keys to ask for"):
        Settings(host=host)
    assert Settings(host=host, insecure=True).host == host
    assert Settings(host=host, keys=f"ada sha256:{'0' * 64}").host == host


@pytest.mark.parametrize(
    "given",
    [
        {"workers": 0},
        {"workers": 100_000},
        {"port": 70000},
        {"deadline_s": 0},
        {"deadline_s": float("inf")},
        {"deadline_s": 1e300},
        {"keep_alive_s": 10**12},
        {"arena_bytes": 2**63},
        {"queue_limit": 10**9},
        {"log_level": "loud"},
        {"jobs_roots": "a/relative/folder"},
        {"jobs_roots": "/nowhere/at/all"},
        {"shared_memory_prefix": "/normtree-mine"},
        {"shared_memory_prefix": "/norm"},
    ],
)
def test_refuses(given: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate(given)


def test_every_setting_is_described_and_fixed() -> None:
    assert all(field.description for field in Settings.model_fields.values())
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1
