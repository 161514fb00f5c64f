"""JSON of strangers: parsed in linear time, with none of the liberties that parsers take."""

import json
from typing import Any, NoReturn

from normtree.errors import MalformedBody
from normtree.http.bodies.contents import Prefix


def parse(raw: Prefix, where: str) -> Any:
    """Parse UTF-8 JSON, in which no key is given twice and every number is JSON's.

    Args:
        raw: the whole text; bounding its length is the caller's.
        where: what it is, for the errors.

    Raises:
        MalformedBody: it is not UTF-8, not JSON, has a key twice, half of a surrogate pair, NaN, a nesting too deep
            or a number too long.
    """

    def malformed(what: str) -> MalformedBody:
        return MalformedBody(f"{where}: {what}", pointer="body")

    def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise malformed("a key is given twice")
        return found

    def refuse(name: str) -> NoReturn:
        raise malformed(f"{name} is no number of JSON's")

    try:
        text = raw.decode()
        found = json.loads(text, object_pairs_hook=without_duplicates, parse_constant=refuse)
        if "\\u" in text:  # only an escape can hide half of a surrogate pair
            _encode(found)
    except UnicodeDecodeError as error:
        raise malformed(f"it is not UTF-8 at byte {error.start}") from None
    except UnicodeEncodeError:
        raise malformed("a text holds half of a surrogate pair") from None
    except json.JSONDecodeError as error:
        raise malformed(f"it is not JSON at character {error.pos}") from None
    except RecursionError:
        raise malformed("it is nested too deep") from None
    except ValueError:  # Python's bound on the digits of an integer
        raise malformed("a number has too many digits") from None
    return found


def _encode(found: object) -> None:
    """Encode every text in a parsed value, which half of a surrogate pair does not survive."""
    json.dumps(found, ensure_ascii=False).encode()
