"""What both clients' connections have in common: where they lead, and which answer belongs to which request."""

import json
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypedDict
from urllib.request import getproxies, proxy_bypass

import httpx

from normtree.client.failures import AnswerMismatch, UnexpectedAnswer, Unreachable, failure
from normtree.loopback import is_loopback

READY_PATH = "/v2/health/ready"
LOOK_S = 0.2
_CONNECT_S = 10.0
_ID = "X-Request-Id"
_ANY_ADDRESS = ("0.0.0.0", "::")  # to connect to them means this machine


class ConnectionOptions(TypedDict):
    """Keyword arguments of HTTPX's clients."""

    base_url: str
    headers: dict[str, str]
    timeout: httpx.Timeout
    proxy: str | None
    trust_env: bool
    verify: Any


def connection_options(url: str, key: str | None, timeout_s: float) -> ConnectionOptions:
    """Return how to connect: where to, with which key, through which proxy, and how long to wait.

    Raises:
        ValueError: the URL is none of HTTP's.
    """
    if not re.match(r"https?://[^/]", url):
        raise ValueError(f"url: wanted http:// or https:// and a host, got {url!r}")
    # Who compresses an answer on its way does so for nothing: tensors hardly shrink.
    headers = {"Accept-Encoding": "identity"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    return {
        "base_url": url,
        "headers": headers,
        "timeout": httpx.Timeout(timeout_s, connect=_CONNECT_S),
        "proxy": proxy_of(httpx.URL(url)),
        "trust_env": False,  # the environment's proxies are read above, its certificates below
        "verify": httpx.create_ssl_context(),
    }


def proxy_of(url: httpx.URL) -> str | None:
    """Return the proxy that the environment names for a URL; None for none, and always for this machine's own."""
    if is_loopback(url.host) or url.host in _ANY_ADDRESS or proxy_bypass(url.netloc.decode("ascii")):
        return None
    proxies = getproxies()
    found = proxies.get(url.scheme) or proxies.get("all")
    return f"http://{found}" if found and "://" not in found else found


def tag(request: httpx.Request) -> None:
    """Give a request an id of its own, by which its answer is known."""
    request.headers[_ID] = uuid.uuid4().hex


def tag_of(answer: httpx.Response) -> str:
    """Return the id of the request that an answer came for."""
    return answer.request.headers[_ID]


def check_tag(answer: httpx.Response) -> None:
    """Refuse an answer to another request, before any of it is read; its connection is then closed.

    Raises:
        AnswerMismatch: it has another id; an answer of success has none. A proxy's own errors may have none.
    """
    ids = answer.headers.get_list(_ID, split_commas=True)  # a proxy may have added one of its own
    wanted = tag_of(answer)
    if wanted not in ids and (ids or answer.is_success):
        got = ", ".join(ids) or "none"
        raise AnswerMismatch(
            f"{answer.request.url.copy_with(query=None)}: the answer is of another request: {_ID}: wanted {wanted}, "
            f"got {got}; a proxy on the way must hand this header on as it is, both ways",
            pointer=_ID,
            limit=wanted,
            got=got,
        )


@contextmanager
def told(url: httpx.URL) -> Iterator[None]:
    """Tell by our classes what goes wrong on the way to a URL.

    Raises:
        Unreachable: the service could not be reached, or hung up.
        UnexpectedAnswer: the answer's coding is broken.
    """
    try:
        yield
    except httpx.TransportError as error:
        through = proxy_of(url)
        way = f" through the proxy {httpx.URL(through).copy_with(userinfo=b'')} of the environment" if through else ""
        raise Unreachable(f"{url}{way}: {type(error).__name__}: {error}") from error
    except httpx.DecodingError as error:
        raise UnexpectedAnswer(f"answer: its Content-Encoding is broken: {error}", httpx.codes.OK) from error


def read_json(answer: httpx.Response) -> dict[str, Any]:
    """Return what an answer holds that has been read.

    Raises:
        NormtreeError: it is an error, or no object of JSON.
    """
    if not answer.is_success:
        raise failure(answer.status_code, answer.headers, answer.content)
    try:
        found = json.loads(answer.content)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UnexpectedAnswer.of(answer.status_code, "wanted an object of JSON", answer.content)
    return found


def not_ready_in(timeout_s: float, url: object) -> Unreachable:
    """Return the error for a service that did not become ready."""
    return Unreachable(f"{url}: not ready within {timeout_s:g} s", limit=timeout_s)
