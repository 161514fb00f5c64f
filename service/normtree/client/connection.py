"""What both clients' connections have in common."""

from typing import TypedDict

import httpx

from normtree.client.failures import Unreachable

LOOK_S = 0.2
_CONNECT_S = 10.0


class ConnectionOptions(TypedDict):
    """Keyword arguments of HTTPX's clients."""

    base_url: str
    headers: dict[str, str]
    timeout: httpx.Timeout


def connection_options(url: str, key: str | None, timeout_s: float) -> ConnectionOptions:
    """Return how to connect: where to, with which key, and how long to wait."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return {"base_url": url, "headers": headers, "timeout": httpx.Timeout(timeout_s, connect=_CONNECT_S)}


def not_ready_in(timeout_s: float, url: object) -> Unreachable:
    """Return the error for a service that did not become ready."""
    return Unreachable(f"{url}: not ready within {timeout_s:g} s", limit=timeout_s)
