"""Answers that are no projections, as the exceptions that the service itself raised."""

import json
from collections.abc import Mapping
from typing import Any

from normtree import errors
from normtree.errors import NormtreeError

_TEXT_SHOWN = 200
_KNOWN = {
    found.code: found
    for found in vars(errors).values()
    if isinstance(found, type) and issubclass(found, NormtreeError) and found is not NormtreeError
}


class Unreachable(NormtreeError):
    """The service could not be reached, or hung up."""

    status = 503
    code = "unreachable"
    title = "The service cannot be reached"


class UnexpectedAnswer(NormtreeError):
    """The answer is none that the service gives for a cause that has a class of its own.

    Attributes:
        answered: its HTTP status.
    """

    status = 502
    code = "unexpected-answer"
    title = "Unexpected answer"

    def __init__(self, detail: str, answered: int) -> None:
        super().__init__(detail, got=answered)
        self.answered = answered


def failure(status: int, headers: Mapping[str, str], body: bytes) -> NormtreeError:
    """Return the exception that an answer stands for; its class is the service's own, found by the problem's code."""
    problem = _problem(body)
    retry_after_s = _seconds(headers.get("Retry-After"))
    detail = str(problem.get("detail") or body[:_TEXT_SHOWN].decode(errors="replace"))
    kind = _KNOWN.get(str(problem.get("code")))
    error: NormtreeError
    if kind is None:
        error = UnexpectedAnswer(f"{status}: {detail}", status)
    else:
        pointer, limit, got = (problem.get(name) for name in ("pointer", "limit", "got"))
        error = kind(detail, pointer=pointer, limit=limit, got=got, retry_after_s=retry_after_s)
    if request_id := headers.get("X-Request-Id"):
        error.add_note(f"the service's log knows it as request {request_id}")
    return error


def _problem(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _seconds(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() else None
