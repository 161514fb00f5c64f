"""Trace contexts (W3C): every request belongs to a trace, its client's or a new one, and its answer says which."""

import re
from collections.abc import Callable
from typing import NamedTuple, Self

HEADER = "traceparent"
_TRACE_BYTES, _SPAN_BYTES = 16, 8
_VALID = re.compile(
    r"(?P<version>(?!ff)[0-9a-f]{2})-(?P<trace>(?!0{32})[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}"
    r"-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?",
    re.ASCII,
)


class TraceContext(NamedTuple):
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
    def of(cls, traceparent: str | None, draw: Callable[[int], bytes]) -> Self:
        """Go on with the trace that a client names, or begin one where it names none that can be read.

        Args:
            traceparent: the header's value.
            draw: returns so many random bytes.
        """
        match = _VALID.fullmatch(traceparent) if traceparent else None
        if match is None or (match["more"] and match["version"] == "00"):
            return cls(draw(_TRACE_BYTES).hex(), draw(_SPAN_BYTES).hex())
        return cls(match["trace"], draw(_SPAN_BYTES).hex(), match["flags"])

    def __str__(self) -> str:
        """Return it as the header has it."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"
