"""Settings: defaults of this machine, the environment, and what is refused."""

import os

import pytest
from pydantic import ValidationError

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
    "given", [{"workers": 0}, {"port": 70000}, {"deadline_s": 0}, {"deadline_s": float("inf")}, {"log_level": "loud"}]
)
def test_refuses(given: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate(given)


def test_every_setting_is_described_and_fixed() -> None:
    assert all(field.description for field in Settings.model_fields.values())
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1
