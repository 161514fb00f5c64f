"""Small JSON bodies: read whole, whatever they are declared as."""

from typing import Any

from starlette.requests import Request

from normtree.errors import BodyTimeout, BodyTooLarge, LengthRequired, MalformedBody
from normtree.http.bodies import strict_json
from normtree.http.problems import problem_responses
from normtree.http.receive import read_whole
from normtree.settings import Settings

LIMIT_BYTES = 2**16
JSON_PROBLEMS = problem_responses(MalformedBody, BodyTimeout, LengthRequired, BodyTooLarge)


async def read_small_json(request: Request, settings: Settings) -> Any:
    """Return a request's body, parsed.

    Raises:
        LengthRequired, BodyTooLarge, BodyTimeout: it has no length, or is over 64 KiB, or did not come in time.
        MalformedBody: it is no JSON, or not all came.
    """
    return strict_json.parse(await read_whole(request, settings, LIMIT_BYTES), "request")
