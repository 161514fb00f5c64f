"""The OpenAPI document: what the routes say of themselves, and what holds for all of them."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.requests import Request
from starlette.responses import JSONResponse

from normtree.errors import (
    CrossSite,
    HostRefused,
    InvalidParameter,
    KeyMissing,
    KeyRefused,
    NormtreeError,
    QueueFull,
    RateExceeded,
)
from normtree.http.access.auth import is_open
from normtree.http.admission.admission import takes_tensor
from normtree.http.problems import MEDIA_TYPE, PROBLEM, Problem, problem_responses

URL = "/openapi.json"
_SCHEME = "key"
_METHODS = ("get", "put", "post", "delete", "patch")
_TAGS = [
    {"name": "projection", "description": "Tensors in, projections out."},
    {"name": "jobs", "description": "Checkpoints in the service's folders, projected in the background."},
    {"name": "health", "description": "Whether the service lives, and takes work."},
    {"name": "info", "description": "What runs here, and its limits."},
    {"name": "operation", "description": "For those who run it."},
]
_REQUEST_ID = {"description": "Id of the request, the client's or ours.", "schema": {"type": "string"}}
_TRACE = {"description": "Trace of the request (W3C).", "schema": {"type": "string"}}
_RETRY_AFTER = {"description": "Whole seconds after which to ask again.", "schema": {"type": "integer", "minimum": 0}}
_ACCEPT_POST = {"description": "Media types that are read.", "schema": {"type": "string"}}
_BUG = {"description": "A bug of the service; its log tells of the request's id", "content": PROBLEM}
_CHALLENGE = {"description": "How to show a key.", "schema": {"type": "string"}}
_UNSHOWN = {"HTTPValidationError", "ValidationError"}  # FastAPI's own, which we do not answer


def install_openapi(app: FastAPI, *, keys_required: bool) -> None:
    """Serve the document of an application, made when it is first asked for.

    Args:
        app: with all its routes, and without FastAPI's own document.
        keys_required: whether its routes, but for the open ones, ask for a key.
    """
    made: list[dict[str, Any]] = []

    async def document(_: Request) -> JSONResponse:
        if not made:
            made.append(_complete(app, keys_required))
        return JSONResponse(made[0])

    app.add_route(URL, document, methods=["GET"], include_in_schema=False)


def _complete(app: FastAPI, keys_required: bool) -> dict[str, Any]:
    """Add what holds for every route to what the routes say."""
    document: dict[str, Any] = get_openapi(
        title=app.title, version=app.version, summary=app.summary, routes=app.routes, tags=_TAGS,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        servers=[{"url": "."}],  # beside this document, whatever path a proxy has put before it
    )  # fmt: skip
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    schemas["Problem"] = Problem.model_json_schema()
    components["securitySchemes"] = {
        _SCHEME: {"type": "http", "scheme": "bearer", "description": "A key that `normtree key new` made."}
    }
    for path, item in document["paths"].items():
        for method in _METHODS:
            if method in item:
                _complete_operation(item[method], path, method, keys_required)
    for name in _UNSHOWN:
        schemas.pop(name, None)
    return document


def _complete_operation(operation: dict[str, Any], path: str, method: str, keys_required: bool) -> None:
    """Add to one operation the errors that middleware answers, its key, and the headers of every answer."""
    for parameter in operation.get("parameters", ()):
        if description := parameter["schema"].get("description"):
            parameter.setdefault("description", description)  # readers of the page look for it there
    responses = operation["responses"]
    asks = keys_required and not is_open(path)
    operation["security"] = [{_SCHEME: []}] if asks else []
    errors: list[type[NormtreeError]] = [KeyMissing, KeyRefused] if asks else []
    if not is_open(path):
        errors += [HostRefused] if method == "get" else [HostRefused, CrossSite]
    if method == "post" and takes_tensor(path):
        errors += [RateExceeded, QueueFull]
    if "422" in responses and MEDIA_TYPE not in responses["422"].get("content", {}):
        del responses["422"]
        errors.append(InvalidParameter)
    for status, response in problem_responses(*errors).items():
        responses.setdefault(str(status), response)
    if "{" in path:
        responses.setdefault("404", {"description": "Nothing of that name", "content": PROBLEM})
    responses["500"] = {**_BUG}
    for status, response in responses.items():
        headers = response.setdefault("headers", {})
        headers |= {"X-Request-Id": _REQUEST_ID, "traceparent": _TRACE}
        if status in ("429", "503"):
            headers["Retry-After"] = _RETRY_AFTER
        if status == "415":
            headers["Accept-Post"] = _ACCEPT_POST
        if status == "401":
            headers["WWW-Authenticate"] = _CHALLENGE
