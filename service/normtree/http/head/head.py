"""The head of a request: its headers by name, gone through once for all who ask, and what HTTP asks of it."""

import re
from collections.abc import Mapping, Sequence

from starlette.types import Scope

# In the state of a request's scope: what is wrong with its framing, and whether its client ended it before its end.
FAULT, CUT = "fault", "cut"
# Likewise: what hangs up on its client at once, with all that it has not read.
HANG_UP = "hang_up"
_CODING = "latin-1"
_LENGTH = "content-length"
_LENGTH_DIGITS = 19
# RFC 3986, 3.2.2: a name or an address of version 4, or one of a later version in brackets; then a port.
_HOST = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*(?::[0-9]*)?|\[[0-9A-Za-z:.%_~-]+\](?::[0-9]*)?")
_SHOWN = 80


class Head(dict[str, str]):
    """Headers by name, in lower case; the values of several lines of one name are one list (RFC 9110, 5.2).

    Attributes:
        length: bytes of the body that are declared; None where they are not, or not by a number.
    """

    __slots__ = ("length",)

    def __init__(self, values: Mapping[str, str]) -> None:
        super().__init__(values)
        text = self.get(_LENGTH, "")
        known = text.isascii() and text.isdigit() and len(text) <= _LENGTH_DIGITS
        self.length = int(text) if known else None

    @property
    def declares_length(self) -> bool:
        """Whether a length is declared, be it a number or not."""
        return _LENGTH in self


def read_head(headers: Sequence[tuple[bytes, bytes]]) -> Head:
    """Return headers by name.

    Args:
        headers: as ASGI has them, their names in lower case.
    """
    head = {name.decode(_CODING): value.decode(_CODING) for name, value in headers}
    return Head(head if len(head) == len(headers) else _join(headers))


def head_of(scope: Scope) -> Head:
    """Return the head of the request that a scope belongs to."""
    found: Head = scope["state"]["head"]
    return found


def host_fault(headers: Sequence[tuple[bytes, bytes]], version: str) -> str | None:
    """Tell what is wrong with the host that a request names: HTTP/1.1 wants one, one only, and a host (RFC 9112, 3.2).

    Args:
        headers: as ASGI has them.
        version: of HTTP; before 1.1 there need be none.
    """
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) == 1:
        if _HOST.fullmatch(hosts[0]):
            return None
        return f"Host: wanted a name or an address, and perhaps a port, got {hosts[0].decode(_CODING)[:_SHOWN]!r}"
    if not hosts and version < "1.1":
        return None
    return f"Host: wanted once, got {len(hosts) or 'none'}"


def without_upgrade(method: bytes, target: bytes, version: str, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Write a head as its client would have without wishing for another protocol.

    Args:
        method: of the request.
        target: as its line names it.
        version: of HTTP.
        headers: as the parser told of them, no line break among them.
    """
    lines = [b"%s %s HTTP/%s" % (method, target, version.encode())]
    lines += [b"%s: %s" % (name, value) for name, value in headers if name != b"upgrade"]
    return b"\r\n".join([*lines, b"", b""])


def _join(headers: Sequence[tuple[bytes, bytes]]) -> Mapping[str, str]:
    lines: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        lines.setdefault(name, []).append(value)
    return {name.decode(_CODING): b", ".join(values).decode(_CODING) for name, values in lines.items()}
