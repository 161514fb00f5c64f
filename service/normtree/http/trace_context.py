"""Trace contexts (W3C): every request belongs to a trace, its client's or a new one, and its answer says which."""

import re
import secrets
from dataclasses import dataclass
from typing import Self

HEADER = "traceparent"
_TRACE_BYTES, _SPAN_BYTES = 16, 8
_VALID = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?P<trace>(?!0{32})[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?",
    re.ASCII,
)


@dataclass(frozen=True)
class TraceContext:
    """A request's place in a trace.

    Attributes:
        trace_id: of the whole trace, 32 hexadecimal digits.
        span_id: of this request within it, 16 hexadecimal digits.
        flags: two hexadecimal digits, as they came; ``00`` where the trace is ours.
    """

    trace_id: str
    span_id: str
    flags: str = "00"

    @classmethod
    def of(cls, traceparent: str) -> Self:
        """Go on with the trace that a client names, or begin one where it names none that can be read."""
        if not traceparent:
            return cls._new()
        match = _VALID.fullmatch(traceparent)
        if match is None or (match["more"] and traceparent.startswith("00")):
            return cls._new()
        return cls(match["trace"], secrets.token_hex(_SPAN_BYTES), match["flags"])

    @classmethod
    def _new(cls) -> Self:
        ids = secrets.token_hex(_TRACE_BYTES + _SPAN_BYTES)
        return cls(ids[: 2 * _TRACE_BYTES], ids[2 * _TRACE_BYTES :])

    def __str__(self) -> str:
        """Return it as the header has it."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"
