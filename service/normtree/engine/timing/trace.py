"""The trace of a request: its pieces of work as a picture, one row a worker, that Perfetto and Chrome open."""

from normtree.engine.timing.schema import Span, Timing

_NS_PER_US = 1e3


def chrome_trace(timing: Timing) -> dict[str, object]:
    """Draw a request's pieces of work in Chrome's trace format, the JSON object form.

    Args:
        timing: as `normtree.engine.projector.Projector.project` returns it.

    Returns:
        Plain values for JSON: save them as a file and open it at https://ui.perfetto.dev or ``chrome://tracing``.
        Times are microseconds from the first piece's start.
    """
    norms = [level.norm for level in timing.levels]
    zero_ns = min((span.start_ns for span in timing.spans), default=0)
    workers = list(dict.fromkeys(span.worker for span in timing.spans))
    return {
        "displayTimeUnit": "ms",
        "otherData": {key: str(getattr(timing, key)) for key in ("trace_id", "engine", "norm", "axes", "shape")},
        "traceEvents": [
            {"ph": "M", "name": "process_name", "pid": 1, "args": {"name": f"normtree {timing.engine}"}},
            *(
                {"ph": "M", "name": "thread_name", "pid": 1, "tid": worker, "args": {"name": f"worker {worker}"}}
                for worker in workers
            ),
            *(_event(span, norms[span.level], zero_ns) for span in timing.spans),
        ],
    }


def _event(span: Span, norm: str, zero_ns: int) -> dict[str, object]:
    """One piece of work, complete."""
    return {
        "ph": "X",
        "name": span.stage if span.stage == "root" else f"{span.stage} {norm}",
        "cat": span.stage,
        "pid": 1,
        "tid": span.worker,
        "ts": (span.start_ns - zero_ns) / _NS_PER_US,
        "dur": (span.stop_ns - span.start_ns) / _NS_PER_US,
        "args": {"level": span.level, "bytes": span.nbytes},
    }
