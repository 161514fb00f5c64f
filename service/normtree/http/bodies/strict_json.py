"""JSON in bodies: parsed strictly, and refused as a body is."""

from typing import Any

from normtree import strict_json
from normtree.errors import MalformedBody
from normtree.http.bodies.contents import Prefix


def parse(raw: Prefix, where: str) -> Any:
    """Parse JSON by `normtree.strict_json`.

    Args:
        raw: the whole text; bounding its length is the caller's.
        where: what it is, for the errors.

    Raises:
        MalformedBody: it is none; why is told.
    """
    try:
        return strict_json.parse(raw)
    except ValueError as error:
        raise MalformedBody(f"{where}: {error}", pointer="body") from None
