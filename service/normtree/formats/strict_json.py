"""JSON of strangers: parsed in linear time, with none of the liberties that parsers take."""

import json
from typing import Any, NoReturn

from normtree.errors import MalformedBody


def parse(raw: bytes | bytearray) -> Any:
    """Parse UTF-8 JSON, in which no key is given twice and every number is JSON's.

    Args:
        raw: the whole text; bounding its length is the caller's.

    Raises:
        ValueError: it is not UTF-8, not JSON, has a key twice, half of a surrogate pair, NaN, a nesting too deep or a
            number too long; which of them is told.
    """
    try:
        text = raw.decode()
        found = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_refuse)
        if "\\u" in text:  # only an escape can hide half of a surrogate pair
            _encode(found)
    except _ToldAlready:
        raise
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 at byte {error.start}") from None
    except UnicodeEncodeError:
        raise ValueError("a text holds half of a surrogate pair") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON at character {error.pos}") from None
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    except ValueError:  # Python's bound on the digits of an integer
        raise ValueError("a number has too many digits") from None
    return found


def parse_body(raw: bytes | bytearray, where: str) -> Any:
    """Parse JSON of a body by `parse`.

    Args:
        raw: the whole text; bounding its length is the caller's.
        where: what it is, for the errors.

    Raises:
        MalformedBody: it is none; why is told.
    """
    try:
        return parse(raw)
    except ValueError as error:
        raise MalformedBody(f"{where}: {error}", pointer="body") from None


class _ToldAlready(ValueError):
    """What is wrong, in our words already."""


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _ToldAlready("a key is given twice")
    return found


def _refuse(name: str) -> NoReturn:
    raise _ToldAlready(f"{name} is no number of JSON's")


def _encode(found: object) -> None:
    """Encode every text in a parsed value, which half of a surrogate pair does not survive."""
    json.dumps(found, ensure_ascii=False).encode()
