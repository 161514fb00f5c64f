"""What is known of a request once it has ended: plain data for metrics and the log."""

from typing import NamedTuple

from starlette.types import Scope

from normtree.engine.timing.schema import Timing
from normtree.http.access.auth import ANONYMOUS

UNMATCHED = "unmatched"


class Exchange(NamedTuple):
    """A request and its answer, without their data.

    Attributes:
        request_id: as in ``X-Request-Id``.
        trace_id: of the trace it belongs to.
        client: name of its key.
        method: of the request.
        route: the path's template; ``unmatched`` where there is none, whatever the path was.
        status: of the answer; 499 where the client went away before it was sent.
        gone: whether the client went away.
        problem: code of the problem that was answered.
        seconds: from the first message to the last.
        bytes_in: declared length of the body; None for none.
        bytes_out: of the answer's body.
        timing: of the projection, where there was one.
    """

    request_id: str
    trace_id: str
    client: str
    method: str
    route: str
    status: int
    gone: bool
    problem: str | None
    seconds: float
    bytes_in: int | None
    bytes_out: int
    timing: Timing | None

    @classmethod
    def of(
        cls, scope: Scope, status: int, *, gone: bool, seconds: float, bytes_in: int | None, bytes_out: int
    ) -> "Exchange":
        """Put together what the request's scope has gathered and what was seen of its answer."""
        state = scope["state"]
        return cls(
            request_id=state["request_id"],
            trace_id=state["trace"].trace_id,
            client=state.get("client", ANONYMOUS),
            method=scope["method"],
            route=getattr(scope.get("route"), "path", UNMATCHED),
            status=status,
            gone=gone,
            problem=state.get("problem"),
            seconds=seconds,
            bytes_in=bytes_in,
            bytes_out=bytes_out,
            timing=state.get("timing"),
        )


def report(scope: Scope, timing: Timing, *, queue: float, **stages_ms: float) -> Timing:
    """Leave a request's timing for metrics and the log.

    Args:
        scope: of the request.
        timing: of its work.
        queue: milliseconds that it waited for a thread.
        stages_ms: other stages outside of the work, in milliseconds.

    Returns:
        The timing with the request's trace, and with the time that it waited for shared memory as ``queue`` too.
    """
    state = scope["state"]
    timing = timing.with_stages(**stages_ms, queue=queue + state.get("queued_ms", 0.0))
    reported = state["timing"] = timing._replace(trace_id=state["trace"].trace_id)
    return reported


def report_answer(scope: Scope, timing: Timing, *, encode: float, total: float) -> Timing:
    """Leave a timing again, once its answer is written.

    Args:
        scope: of the request.
        timing: as it was reported.
        encode: milliseconds that it took to write the answer.
        total: milliseconds of the whole request, but for its sending.

    Returns:
        The timing with both.
    """
    reported = scope["state"]["timing"] = timing.with_stages(encode=encode, total=total)
    return reported
