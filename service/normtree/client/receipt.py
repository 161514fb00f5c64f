"""An answer as it comes in."""

import json
from collections.abc import Callable, Mapping
from typing import Any, Literal

from normtree.client.failures import UnexpectedAnswer
from normtree.errors import NormtreeError
from normtree.formats import safetensors
from normtree.formats.contents import Contents

MEDIA_TYPE = "application/vnd.safetensors"
_OK = 200
_PLAIN = "identity"
_CODINGS = (_PLAIN, "gzip", "deflate")  # those that httpx undoes without further packages
# An answer is as large as what was sent, but for certificates in its header, and three tensors for each where compact.
_LIMITS = {"elements_limit": 2**62, "header_limit_bytes": 2**27, "tensors_limit": 2**20}

Direction = Literal["sent", "received"]
Progress = Callable[[Direction, int, int], None]


class Receipt:
    """An answer's body on its way in, decoded, at once or by chunks.

    Args:
        headers: of the answer.
        request_id: of the request.
        progress: told of what has come, once it is known how much will; None for nobody.

    Attributes:
        headers: the same.
        request_id: the same.
        body: what has come, and then zeros up to the length, where that was told.

    Raises:
        UnexpectedAnswer: it is in another format, or in a coding that was not asked for and that we cannot undo.
    """

    def __init__(self, headers: Mapping[str, str], request_id: str, progress: Progress | None) -> None:
        media_type, coding = headers.get("Content-Type", MEDIA_TYPE), headers.get("Content-Encoding", _PLAIN)
        if media_type.partition(";")[0].strip().lower() != MEDIA_TYPE:
            raise UnexpectedAnswer(f"200: Content-Type: wanted {MEDIA_TYPE}, got {media_type}", _OK)
        if coding.lower() not in _CODINGS:
            raise UnexpectedAnswer(f"200: Content-Encoding: wanted {_PLAIN}, got {coding}", _OK)
        self.headers = headers
        self.request_id = request_id
        self._whole = int(headers["Content-Length"]) if coding == _PLAIN and "Content-Length" in headers else None
        self.body = bytearray(self._whole or 0)
        self._done = 0
        self._progress = progress

    def take(self, part: bytes) -> None:
        """Take the next bytes."""
        self.body[self._done : self._done + len(part)] = part
        self._done += len(part)
        if self._progress:
            if self._whole is None and (contents := _contents(self.body)):
                self._whole = _length(contents)
            if self._whole is not None:
                self._progress("received", self._done, self._whole)

    def contents(self) -> Contents:
        """Return what the body holds, now that it has come.

        Raises:
            UnexpectedAnswer: it is no safetensors, or not all of it.
        """
        contents = _contents(self.body)
        if contents is None or _length(contents) != len(self.body):
            wanted = "more than its header" if contents is None else f"{_length(contents)} bytes"
            raise UnexpectedAnswer(f"200: body: wanted {wanted}, got {len(self.body)} bytes", _OK)
        return contents

    def json(self, name: str) -> Any:
        """Return what a header holds as JSON.

        Raises:
            UnexpectedAnswer: it is missing, or no JSON.
        """
        try:
            return json.loads(self.headers[name])
        except (KeyError, ValueError):
            detail = f"200: {name}: wanted JSON, got {self.headers.get(name)}; a proxy on the way must hand it on"
            raise UnexpectedAnswer(detail, _OK) from None


def _contents(body: bytearray) -> Contents | None:
    """Read a body's header, None while it has not come."""
    try:
        return safetensors.read_header(body, **_LIMITS)
    except NormtreeError as error:  # which speaks of a body that was sent, and not of the service's answer
        raise UnexpectedAnswer(f"200: {error.detail}", _OK) from None


def _length(contents: Contents) -> int:
    return contents.data_offset + contents.data_bytes
