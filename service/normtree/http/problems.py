"""Exceptions to answers: the one place where an error becomes ``application/problem+json`` (RFC 9457)."""

import logging
import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from normtree.errors import InvalidParameter, MalformedBody, NormtreeError
from normtree.http.head.head import CUT, FAULT, head_of
from normtree.http.head.request_id import request_id

MEDIA_TYPE = "application/problem+json"
PROBLEM = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}  # of an error, in OpenAPI
Scalar = bool | int | float | str | None

# After these the rest of the body is not wanted, or nobody can tell where it ends.
_CLOSING = frozenset({400, 408, 411, 413})
# A shorter one is dropped as it comes: for who is refused at a high rate, that is cheaper than a new connection.
_SHORT_BODY_BYTES = 2**18
_TEXT_SHOWN = 200
_BITS_SHOWN = 64

logger = logging.getLogger(__name__)


class Problem(BaseModel):
    """The body of every error. All members are always there; those that do not apply are null."""

    type: str = Field(description="URN of the kind of problem.")
    title: str = Field(description="The kind of problem, for people.")
    status: int = Field(description="HTTP status.")
    detail: str = Field(description="What, where, got, wanted.")
    instance: str = Field(description="Path that was asked for.")
    code: str = Field(description="The kind of problem, for programs.")
    pointer: str | None = Field(description="Parameter, header or part of the body at fault.")
    limit: Scalar = Field(description="Bound that was broken.")
    got: Scalar = Field(description="Value that broke it.")
    request_id: str = Field(description="Id of the request, as in X-Request-Id.")
    error: str = Field(description="Same as detail, for Open Inference Protocol clients.")


class Problems:
    """ASGI middleware that answers whatever is raised inside of it, by routes and by other middleware.

    An exception nobody expected is logged and answered 500 with the request's id only. A request whose framing is
    wrong goes no further.

    Args:
        app: the application.
        readable: media types of bodies, which ``Accept-Post`` names.
    """

    def __init__(self, app: ASGIApp, readable: Sequence[str] = ()) -> None:
        """Wrap an application."""
        self._app = app
        self._readable = ", ".join(readable)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if fault := scope["state"].get(FAULT) if scope["type"] == "http" else None:
            await _answer_fault(scope, fault)(scope, receive, send)
            return
        started = False

        async def watch(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except Exception as error:
            if scope["type"] != "http" or started:
                raise  # the server then closes the connection, and half an answer is not taken for a whole one
            await self._answer(scope, error)(scope, receive, send)

    def _answer(self, scope: Scope, error: Exception) -> Response:
        """Answer an error by its type."""
        if isinstance(error, HTTPException):
            return _answer_unrouted(scope, error)
        if isinstance(error, RequestValidationError):
            error = _invalid(error)
        headers = {} if scope.get("route") or _is_soon_over(scope) else {"Connection": "close"}
        if isinstance(error, NormtreeError):
            return _answer_known(scope, error, {**headers, **_headers_of(error, self._readable)})
        logger.error("request %s failed", request_id(scope), exc_info=error)
        detail = f"the service has a bug; its log tells of request {request_id(scope)}"
        return _answer(scope, 500, "internal-error", "Internal error", detail, headers=headers)


def make_problem(
    status: int,
    code: str,
    title: str,
    detail: str,
    instance: str,
    request_id: str,
    *,
    pointer: str | None = None,
    limit: object = None,
    got: object = None,
) -> Problem:
    """Make the body of an error; ``detail``, ``limit`` and ``got`` become what JSON can hold."""
    detail = _text(detail)
    return Problem(
        type=f"urn:normtree:problem:{code}",
        title=title,
        status=status,
        detail=detail,
        instance=instance,
        code=code,
        pointer=pointer and _text(pointer),
        limit=_scalar(limit),
        got=_scalar(got),
        request_id=request_id,
        error=detail,
    )


def problem_responses(*errors: type[NormtreeError]) -> dict[int | str, dict[str, Any]]:
    """Return the answers of a route that raises these errors, as OpenAPI describes them."""
    titles: dict[int, list[str]] = {}
    for error in errors:
        titles.setdefault(error.status, []).append(error.title)
    return {status: {"description": "; ".join(titles[status]), "content": PROBLEM} for status in sorted(titles)}


def _answer_fault(scope: Scope, fault: str) -> Response:
    """Answer a request whose framing is wrong."""
    if scope["state"].get(CUT):
        return _answer_known(scope, MalformedBody(fault, pointer="body"), {})
    return _answer(scope, 400, "malformed-request", HTTPStatus(400).phrase, fault)


def _is_soon_over(scope: Scope) -> bool:
    """Tell whether a body, or none, is on its way that is taken sooner than its client would connect again.

    Not one that waits for `100 Continue`: whether it comes at all, only its client knows.
    """
    head = head_of(scope)
    if "transfer-encoding" in head or "expect" in head:
        return False
    return not head.declares_length or (head.length is not None and head.length <= _SHORT_BODY_BYTES)


def _headers_of(error: NormtreeError, readable: str) -> dict[str, str]:
    """Return the headers that HTTP wants beside some of our own errors."""
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    if error.status == HTTPStatus.UNSUPPORTED_MEDIA_TYPE:
        named = error.pointer == "Content-Type" and error.limit
        headers["Accept-Post"] = str(named) if named else readable
        if error.pointer == "Content-Encoding":
            headers["Accept-Encoding"] = str(error.limit)
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="normtree"'
    return headers


def _answer_known(scope: Scope, error: NormtreeError, headers: Mapping[str, str]) -> Response:
    """Answer one of our own errors."""
    return _answer(
        scope, error.status, error.code, error.title, error.detail,
        headers=headers, pointer=error.pointer, limit=error.limit, got=error.got,
    )  # fmt: skip


def _invalid(error: RequestValidationError) -> InvalidParameter:
    """Return what FastAPI found wrong as an error of ours, without the input that it would echo."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return InvalidParameter(f"{where}: {first['msg']}", pointer=where)


def _answer_unrouted(scope: Scope, error: HTTPException) -> Response:
    """Answer what the router found wrong: no such path, or not by this method."""
    title = HTTPStatus(error.status_code).phrase
    code = title.lower().replace(" ", "-")
    path, method, allowed = scope["path"], scope["method"], (error.headers or {}).get("Allow")
    if allowed:
        allowed = allowed.replace("GET", "GET, HEAD")  # which `Bodiless` has served as GET
        detail, pointer, got = f"method: wanted {allowed} of {path}, got {method}", "method", method
    else:
        detail, pointer, got = f"path: {method} {path}: {error.detail}; /docs lists what there is", "path", path
    return _answer(
        scope, error.status_code, code, title, detail,
        headers={"Allow": allowed} if allowed else error.headers, pointer=pointer, limit=allowed, got=got,
    )  # fmt: skip


async def _hand_on(_: Request, error: Exception) -> Response:
    raise error


# FastAPI answers nothing itself: what it finds wrong comes to `Problems` like all else.
HANDED_ON: dict[Any, Any] = dict.fromkeys((HTTPException, RequestValidationError), _hand_on)


def _answer(
    scope: Scope,
    status: int,
    code: str,
    title: str,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
    pointer: str | None = None,
    limit: object = None,
    got: object = None,
) -> Response:
    """Build the answer. Its id is in the body; `normtree.http.head.request_id.RequestId` puts it into the headers."""
    problem = make_problem(
        status, code, title, detail, scope["path"], request_id(scope), pointer=pointer, limit=limit, got=got
    )
    scope["state"]["problem"] = code  # for metrics and the log
    closing = {"Connection": "close"} if status in _CLOSING else {}
    body = problem.model_dump_json()
    return Response(body, status, headers={**(headers or {}), **closing}, media_type=MEDIA_TYPE)


def _scalar(value: object) -> Scalar:
    """Return a value that JSON can hold: numbers as they are, all else as a short text."""
    if isinstance(value, int) and value.bit_length() > _BITS_SHOWN:
        return f"an integer of {value.bit_length()} bits"
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return _text(str(value)[:_TEXT_SHOWN])


def _text(text: str) -> str:
    """Return a text without halves of surrogate pairs, which names of files may hold, and UTF-8 may not."""
    return text.encode(errors="backslashreplace").decode()
