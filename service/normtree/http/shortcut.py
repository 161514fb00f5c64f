"""A shortcut to endpoints that need nothing of FastAPI but to be described by it."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.routing import APIRoute
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send


class Shortcut:
    """ASGI middleware that calls the endpoints of some routes itself; all else goes on to FastAPI.

    FastAPI finds a route in steps, solves dependencies and opens stacks for them, which takes as long as a small
    tensor does. The endpoints take a request and texts of the path, and return a response: they have no dependencies.

    Args:
        app: the application.
        routes: of FastAPI, which has them too.
        handlers: of errors, as the application has them.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[APIRoute], handlers: Mapping[Any, Any]) -> None:
        """Wrap an application."""
        self._app = app
        self._routes = tuple(routes)
        self._answer = ExceptionMiddleware(_answer, handlers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and scope["method"] == "POST":
            for route in self._routes:
                match, found = route.matches(scope)
                if match is Match.FULL:
                    scope.update(found, route=route)
                    await self._answer(scope, receive, send)
                    return
        await self._app(scope, receive, send)


async def _answer(scope: Scope, receive: Receive, send: Send) -> None:
    """Call the endpoint that was found, and send its answer."""
    response = await scope["endpoint"](Request(scope, receive, send), **scope["path_params"])
    await response(scope, receive, send)
