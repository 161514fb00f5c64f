"""The head of a request: its headers by name, gone through once for all who ask."""

from collections.abc import Mapping, Sequence

from starlette.types import Scope

_CODING = "latin-1"


def read_head(headers: Sequence[tuple[bytes, bytes]]) -> Mapping[str, str]:
    """Return headers by name.

    Args:
        headers: as ASGI has them, their names in lower case.

    Returns:
        The values by name; those of several lines of one name are one list (RFC 9110, 5.2).
    """
    head = {name.decode(_CODING): value.decode(_CODING) for name, value in headers}
    return head if len(head) == len(headers) else _join(headers)


def head_of(scope: Scope) -> Mapping[str, str]:
    """Return the head of the request that a scope belongs to."""
    found: Mapping[str, str] = scope["state"]["head"]
    return found


def _join(headers: Sequence[tuple[bytes, bytes]]) -> Mapping[str, str]:
    lines: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        lines.setdefault(name, []).append(value)
    return {name.decode(_CODING): b", ".join(values).decode(_CODING) for name, values in lines.items()}
