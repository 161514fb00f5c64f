"""Who asks: a bearer key is looked up before anything else is read, and its name is put into the request's state."""

from typing import NamedTuple

from starlette.types import ASGIApp, Receive, Scope, Send

from normtree.errors import KeyMissing, KeyRefused
from normtree.http.head.head import head_of
from normtree.keys.key import NO_KEY, Key
from normtree.keys.key_ring import KeyRing

ANONYMOUS = NO_KEY
# What an orchestrator, a scraper and a browser ask for without a key. None of it shows data, names or keys.
_OPEN = ("/v2/health/live", "/v2/health/ready", "/metrics", "/openapi.json", "/docs")
_OPEN_FOLDER = "/docs/"
_SCHEME = "bearer"


class Caller(NamedTuple):
    """Who asks.

    Attributes:
        name: of the key that was shown, by which its owner is known in logs and limits.
        admin: whether what others have made is this caller's to see and to end.
        key: that was shown; None where none is needed.
    """

    name: str
    admin: bool
    key: Key | None = None

    def may_use(self, owner: str) -> bool:
        """Tell whether what a client of some name has made is this caller's too."""
        return self.admin or self.name == owner


_NOBODY = Caller(ANONYMOUS, admin=False)
ANYBODY = Caller(ANONYMOUS, admin=True)  # where no keys are asked for, there is one client, and all is its own


class Auth:
    """ASGI middleware that lets a request pass if its key is known, or if none is needed.

    Raises:
        KeyMissing: no ``Authorization: Bearer``.
        KeyRefused: a key that is nobody's.
    """

    def __init__(self, app: ASGIApp, keys: KeyRing) -> None:
        """Wrap an application; ``keys`` are those that open it."""
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            caller = self._caller(scope) if self._keys.required else ANYBODY
            scope["state"]["caller"], scope["state"]["client"] = caller, caller.name
        await self._app(scope, receive, send)

    def _caller(self, scope: Scope) -> Caller:
        """Return whose key the request shows."""
        if is_open(scope["path"]):
            return _NOBODY
        scheme, _, secret = head_of(scope).get("authorization", "").partition(" ")
        if scheme.lower() != _SCHEME or not secret:
            raise KeyMissing("Authorization: wanted Bearer and a key, got none", pointer="Authorization")
        key = self._keys.find(secret.strip())
        if key is None:
            raise KeyRefused("Authorization: no key of this service is the one that was shown", pointer="Authorization")
        return Caller(key.name, key.admin, key)


def is_open(path: str) -> bool:
    """Tell whether a path may be asked for without a key."""
    return path in _OPEN or path.startswith(_OPEN_FOLDER)


def caller_of(scope: Scope) -> Caller:
    """Return who asks in the request that a scope belongs to."""
    found: Caller = scope["state"]["caller"]
    return found


def client_name(scope: Scope) -> str:
    """Return the name of the key of the request that a scope belongs to, ``anonymous`` where none is needed."""
    found: str = scope["state"]["client"]
    return found
