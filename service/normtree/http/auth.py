"""Who asks: a bearer key is looked up before anything else is read, and its name is put into the request's state."""

from starlette.types import ASGIApp, Receive, Scope, Send

from normtree.errors import KeyMissing, KeyRefused
from normtree.http.head import head_of
from normtree.keys import KeyRing

ANONYMOUS = "anonymous"
# What an orchestrator, a scraper and a browser ask for without a key. None of it shows data, names or keys.
_OPEN = ("/v2/health/live", "/v2/health/ready", "/metrics", "/openapi.json", "/docs")
_OPEN_FOLDER = "/docs/"
_SCHEME = "bearer"


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
            scope["state"]["client"] = self._name(scope) if self._keys.required else ANONYMOUS
        await self._app(scope, receive, send)

    def _name(self, scope: Scope) -> str:
        """Return the name of the key that the request shows."""
        if is_open(scope["path"]):
            return ANONYMOUS
        scheme, _, secret = head_of(scope).get("authorization", "").partition(" ")
        if scheme.lower() != _SCHEME or not secret:
            raise KeyMissing("Authorization: wanted Bearer and a key, got none", pointer="Authorization")
        name = self._keys.name_of(secret.strip())
        if name is None:
            raise KeyRefused("Authorization: no key of this service is the one that was shown", pointer="Authorization")
        return name


def is_open(path: str) -> bool:
    """Tell whether a path may be asked for without a key."""
    return path in _OPEN or path.startswith(_OPEN_FOLDER)


def client_name(scope: Scope) -> str:
    """Return the name of the key of the request that a scope belongs to, ``anonymous`` where none is needed."""
    found: str = scope["state"]["client"]
    return found
