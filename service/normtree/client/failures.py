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


class AnswerMismatch(NormtreeError):
    """The answer is one to another request: of a connection that two share, or of a proxy that mixes them up."""

    status = 502
    code = "answer-mismatch"
    title = "The answer is of another request"


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

    @classmethod
    def of(cls, answered: int, wanted: str, body: bytes) -> "UnexpectedAnswer":
        """Make one that shows the beginning of the answer's body."""
        return cls(f"{answered}: {wanted}, got {_shown(body)!r}", answered)


def failure(status: int, headers: Mapping[str, str], body: bytes) -> NormtreeError:
    """Return the exception that an answer stands for; its class is the service's own, found by the problem's code."""
    problem = _problem(body)
    retry_after_s = _seconds(headers.get("Retry-After"))
    detail = str(problem.get("detail") or _shown(body))
    kind = _KNOWN.get(str(problem.get("code")))
    error: NormtreeError
    if moved_to := headers.get("Location"):
        error = UnexpectedAnswer(f"{status}: it is at {moved_to}, which is not followed: name that as the url", status)
    elif kind is None:
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


def _shown(body: bytes) -> str:
    return body[:_TEXT_SHOWN].decode(errors="replace")


def _seconds(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() else None
