"""A shortcut to endpoints that need nothing of FastAPI but to be described by it."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send


class Shortcut:
    """ASGI middleware that calls the endpoints of some routes itself; all else goes on to FastAPI.

    FastAPI finds a route in steps, solves dependencies and opens stacks for them, which takes as long as a small
    tensor does. The endpoints take a request and texts of the path, and return a response: they have no dependencies.

    Args:
        app: the application.
        routes: of FastAPI, which has them too.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[APIRoute]) -> None:
        """Wrap an application."""
        self._app = app
        self._by_path = {route.path: route for route in routes if not route.param_convertors}
        self._by_pattern = tuple(route for route in routes if route.param_convertors)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        found = self._find(scope) if scope["type"] == "http" and scope["method"] == "POST" else None
        if found is None:
            await self._app(scope, receive, send)
            return
        scope["route"], texts = found
        response: Response = await scope["route"].endpoint(Request(scope, receive, send), **texts)
        await response(scope, receive, send)

    def _find(self, scope: Scope) -> tuple[APIRoute, Mapping[str, Any]] | None:
        """Return the route of a request and the texts of its path; None where that is for FastAPI to find."""
        route = self._by_path.get(scope["path"])
        if route:
            return route, {}
        for route in self._by_pattern:
            match, found = route.matches(scope)
            if match is Match.FULL:
                return route, found["path_params"]
        return None
