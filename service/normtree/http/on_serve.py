"""The service as an application of Ray Serve: replicas that Ray places, scales and replaces while others answer.

Each replica is a whole service on threads of its own (`inline_only`): Serve has the cluster already, and a replica is
one of its actors. A request's body comes through Serve's proxy, which is one more copy between processes than
``normtree serve`` makes; in exchange a new version takes over without a request lost.
"""

from normtree.extras import missing

if error := missing("normtree.http.on_serve", "serve"):
    raise error

from fastapi import FastAPI
from ray import serve
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from normtree.engine.projector import Projector
from normtree.http.app import create_app
from normtree.settings import Settings

# Serve's proxy is what binds an address, and it binds them all: the settings then ask for keys.
_HOST = "0.0.0.0"


class _Replica:
    """ASGI middleware: what a replica owes to Serve, and what is ended when Serve ends it."""

    def __init__(self, app: ASGIApp, projector: Projector) -> None:
        self._app = app
        self._projector = projector

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the application's life."""

        async def send_picklable(message: Message) -> None:
            if isinstance(message.get("body"), memoryview):
                message = {**message, "body": bytes(message["body"])}  # Serve pickles it for its proxy
            await send(message)

        try:
            await self._app(scope, receive, send_picklable)
        finally:
            if scope["type"] == "lifespan":
                self._projector.close()


def build() -> ASGIApp:
    """Make a replica's application, from ``NORMTREE_<NAME>`` in its environment.

    Raises:
        pydantic.ValidationError: a setting out of range, or no keys to ask clients for.
    """
    settings = Settings(host=_HOST, inline_only=True)
    projector = Projector.start(settings, warm="first")
    app: FastAPI = create_app(projector, settings)
    return _Replica(app, projector)


application = serve.deployment(name="normtree")(serve.ingress(build)()).bind()
