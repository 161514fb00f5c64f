"""What both clients' connections have in common."""

import re
from typing import Any, TypedDict

import httpx

from normtree.client.failures import Unreachable, failure

READY_PATH = "/v2/health/ready"
LOOK_S = 0.2
_CONNECT_S = 10.0


class ConnectionOptions(TypedDict):
    """Keyword arguments of HTTPX's clients."""

    base_url: str
    headers: dict[str, str]
    timeout: httpx.Timeout


def connection_options(url: str, key: str | None, timeout_s: float) -> ConnectionOptions:
    """Return how to connect: where to, with which key, and how long to wait.

    Raises:
        ValueError: the URL is none of HTTP's.
    """
    if not re.match(r"https?://[^/]", url):
        raise ValueError(f"url: wanted http:// or https:// and a host, got {url!r}")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return {"base_url": url, "headers": headers, "timeout": httpx.Timeout(timeout_s, connect=_CONNECT_S)}


def unreachable(url: object, error: httpx.TransportError) -> Unreachable:
    """Return the error for a service that could not be reached, or hung up."""
    return Unreachable(f"{url}: {type(error).__name__}: {error}")


def read_json(answer: httpx.Response) -> dict[str, Any]:
    """Return what an answer holds that has been read.

    Raises:
        NormtreeError: it is an error.
    """
    if answer.is_error:
        raise failure(answer.status_code, answer.headers, answer.content)
    found: dict[str, Any] = answer.json()
    return found


def not_ready_in(timeout_s: float, url: object) -> Unreachable:
    """Return the error for a service that did not become ready."""
    return Unreachable(f"{url}: not ready within {timeout_s:g} s", limit=timeout_s)
