"""Small JSON bodies: read whole, whatever they are declared as."""

from typing import Any

from starlette.requests import Request

from normtree.errors import BodyTooLarge
from normtree.http.bodies import strict_json

LIMIT_BYTES = 2**16


async def read_small_json(request: Request) -> Any:
    """Return a request's body, parsed.

    Raises:
        BodyTooLarge: it is over 64 KiB.
        MalformedBody: it is no JSON.
    """
    found = bytearray()
    async for part in request.stream():
        found += part
        if len(found) > LIMIT_BYTES:
            raise BodyTooLarge(f"body: at most {LIMIT_BYTES} bytes are read", pointer="body", limit=LIMIT_BYTES)
    return strict_json.parse(found, "request")
