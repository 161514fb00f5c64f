"""The log: one line of JSON a record, and one record a request. No data, no secrets, no query."""

import logging
import time

from pydantic_core import to_json

from normtree.engine.timing import Timing
from normtree.http.exchange import Exchange

_US_PER_MS = 1e3
_US_PER_S = 1e6
_DIGITS = 6
_ERROR = 500
# What a record may be asked to know of who made it, and no line tells: to find it out takes longer than all the rest.
_UNTOLD = ("logThreads", "logProcesses", "logMultiprocessing", "logAsyncioTasks")

logger = logging.getLogger("normtree.request")


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON: time (UTC), level, logger, message, and the ``fields`` it may have."""

    _second = (0, "")  # the last one that was written, and its text

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": f"{self._text(int(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return to_json(line, fallback=str).decode()

    def _text(self, second: int) -> str:
        """Return a second of the clock as text."""
        last, text = self._second
        if second != last:
            text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second = (second, text)
        return text


def log_to_stderr(level: str) -> None:
    """Send what this process logs to standard error, as lines of JSON."""
    for switch in _UNTOLD:
        setattr(logging, switch, False)
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler])


def log_request(done: Exchange) -> None:
    """Log a request that has ended, under the names that the metrics use."""
    if not logger.isEnabledFor(logging.INFO):
        return
    fields: dict[str, object] = {
        "request_id": done.request_id,
        "trace_id": done.trace_id,
        "client": done.client,
        "route": done.route,
        "code": done.status,
        "seconds": _seconds(done),
        "bytes_in": done.bytes_in,
        "bytes_out": done.bytes_out,
    }
    if done.problem:
        fields["problem"] = done.problem
    if done.gone:
        fields["gone"] = True
    if done.timing:
        fields |= _of_timing(done.timing)
    level = logging.ERROR if done.status == _ERROR else logging.INFO
    message = f"{done.method} {done.route} {done.status}"
    # Not by `logger.log`, which looks for the line of code that calls it: a third of what a line costs.
    logger.handle(logger.makeRecord(logger.name, level, __file__, 0, message, (), None, None, {"fields": fields}))


def _seconds(done: Exchange) -> dict[str, float]:
    """Return what the stages and all of it took, by whole microseconds."""
    stages_ms = done.timing.stages_ms if done.timing else {}
    seconds = {stage: round(_US_PER_MS * took_ms) / _US_PER_S for stage, took_ms in stages_ms.items()}
    seconds["total"] = round(_US_PER_S * done.seconds) / _US_PER_S
    return seconds


def _of_timing(timing: Timing) -> dict[str, object]:
    return {
        "engine": timing.engine,
        "reason": timing.reason,
        "norm": timing.norm,
        "shape": timing.shape,
        "dtype": timing.dtype,
        "workers": timing.workers,
        "retries": timing.retries,
        "parallel_efficiency": round(timing.efficiency, _DIGITS),
    }
