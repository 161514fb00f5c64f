"""Pages in a browser: what one of another site could send is refused, whether or not it could read the answer.

A browser sends for any page to any address that it reaches, this machine's own included. Requests that change nothing
are let through, for their answers are kept from the page. What a page may send is its own site's (as the browser says
in ``Sec-Fetch-Site``, or by an ``Origin`` that is the ``Host``), or what `cors_origins` names. A page that makes its
own name mean this machine is told apart by that name: without keys a loopback service answers to loopback names only,
and to those of `allowed_hosts`.
"""

from starlette.types import ASGIApp, Receive, Scope, Send

from normtree.errors import CrossSite, HostRefused
from normtree.http.access.auth import is_open
from normtree.http.head.head import head_of
from normtree.loopback import is_loopback
from normtree.settings import Settings

_SAFE = ("GET", "HEAD", "OPTIONS")
_OWN = ("same-origin", "none")  # the second: a person's own doing, and no page's


class SameSite:
    """ASGI middleware that refuses what a page of another site could send.

    Args:
        app: the application.
        settings: origins and hosts that are permitted besides.
        keys_required: whether a key must be shown, which no such page has.

    Raises:
        HostRefused: the request is for a host that this service is none of.
        CrossSite: a page of another site sends it.
    """

    def __init__(self, app: ASGIApp, settings: Settings, *, keys_required: bool) -> None:
        """Wrap an application."""
        self._app = app
        self._origins = frozenset(settings.origins)
        self._hosts = frozenset(settings.hosts)
        self._asks_host = bool(self._hosts) or (is_loopback(settings.host) and not keys_required)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            head = head_of(scope)
            if self._asks_host and "host" in head and not is_open(scope["path"]):
                self._check_host(head["host"])
            if scope["method"] not in _SAFE and ("origin" in head or "sec-fetch-site" in head):
                self._check_site(head.get("origin"), head.get("sec-fetch-site"), head.get("host", ""))
        await self._app(scope, receive, send)

    def _check_host(self, host: str) -> None:
        name = _name(host)
        if not (is_loopback(name) or name in self._hosts):
            raise HostRefused(
                f"Host: wanted a name of this machine's loopback, or one of allowed_hosts, got {host!r}",
                pointer="Host",
                limit=", ".join(sorted(self._hosts)) or "loopback",
                got=host,
            )

    def _check_site(self, origin: str | None, site: str | None, host: str) -> None:
        if origin in self._origins or "*" in self._origins:
            return
        own = site in _OWN if site is not None else origin is not None and origin.partition("://")[2] == host
        if not own:
            raise CrossSite(
                f"Origin: wanted a page of this service, or of an origin in cors_origins, got {origin or site}",
                pointer="Origin",
                limit=", ".join(sorted(self._origins)) or host,
                got=origin or site,
            )


def _name(host: str) -> str:
    """Return a Host without its port, and an address of IPv6 without its brackets."""
    name = host.strip().lower()
    name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    return name.removesuffix(".")
