"""Small JSON bodies, read whole."""

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request

from normtree.errors import BodyTimeout, BodyTooLarge, LengthRequired, MalformedBody, UnsupportedMediaType
from normtree.formats.strict_json import parse_body
from normtree.http.body.receive import read_whole
from normtree.http.head.head import head_of
from normtree.http.problems import problem_responses
from normtree.settings import Settings

LIMIT_BYTES = 2**16
JSON_PROBLEMS = problem_responses(MalformedBody, BodyTimeout, LengthRequired, BodyTooLarge, UnsupportedMediaType)
_JSON = "application/json"
_PAGES = ("text", "multipart")  # what pages of any site may send unasked; curl's own form means JSON as well


async def read_small_json(request: Request, settings: Settings) -> Any:
    """Return a request's body, parsed.

    Raises:
        LengthRequired, BodyTooLarge, BodyTimeout: it has no length, or is over 64 KiB, or did not come in time.
        MalformedBody: it is no JSON, or not all came.
        UnsupportedMediaType: as `check_json`.
    """
    check_json(head_of(request.scope))
    return parse_body(await read_whole(request, settings, LIMIT_BYTES), "request")


def check_json(head: Mapping[str, str]) -> None:
    """Refuse what is declared as text or parts of a form, as any page may send them. No declaration is none.

    Raises:
        UnsupportedMediaType: it is.
    """
    given = head.get("content-type", _JSON)
    if given.partition("/")[0].strip().lower() in _PAGES:
        detail = f"Content-Type: wanted {_JSON}, got {given}"
        raise UnsupportedMediaType(detail, pointer="Content-Type", limit=_JSON, got=given)
