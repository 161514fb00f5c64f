"""The log: one line of JSON a record, and one record a request. No data, no secrets, no query."""

import atexit
import logging
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING

from pydantic_core import to_json

from normtree.engine.timing.schema import Timing
from normtree.http.watching.exchange import Exchange
from normtree.http.watching.log_stream import LogStream

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

_MS_PER_S = 1e3
_US_PER_MS = 1e3
_US_PER_S = 1e6
_DIGITS = 6
_ERROR = 500
_LAST_LINES_S = 1.0

logger = logging.getLogger("normtree.request")


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON: time (UTC), level, logger, message, and the ``fields`` it may have."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields = getattr(record, "fields", {})
        if record.exc_info:
            fields = {**fields, "exception": self.formatException(record.exc_info)}
        return _line(record.created, record.levelno, record.name, record.getMessage(), fields)


class RequestLines:
    """Logs requests as `log_request` does, straight to a stream that takes JSON lines only.

    A record's way through `logging` takes longer than to write the line that it becomes. As there, a line that cannot
    be written is lost, and the request is not.

    Args:
        stream: where the other lines go too.
    """

    def __init__(self, stream: "SupportsWrite[str]") -> None:
        """Write to a stream."""
        self._stream = stream

    def __call__(self, done: Exchange) -> None:
        """Log a request that has ended."""
        if logger.isEnabledFor(logging.INFO):
            line = _line(time.time(), _level(done), logger.name, _message(done), _fields(done))
            with suppress(OSError, ValueError):  # a full disk, a reader that is gone, a stream that was closed
                self._stream.write(f"{line}\n")


def log_to_stderr(level: str) -> RequestLines:
    """Send what this process logs to standard error, as lines of JSON; return what logs requests there.

    Nobody who logs waits for who reads it, least of all the event loop; see `LogStream`.
    """
    stream = LogStream(sys.stderr.fileno(), _tell_dropped)
    atexit.register(stream.close, _LAST_LINES_S)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    return RequestLines(stream)


def log_request(done: Exchange) -> None:
    """Log a request that has ended, under the names that the metrics use."""
    if logger.isEnabledFor(logging.INFO):
        logger.log(_level(done), _message(done), extra={"fields": _fields(done)})


def _tell_dropped(count: int) -> str:
    """Return the line that tells of lines that were dropped."""
    message = f"{count} lines were dropped before this one: they were not taken as fast as they came"
    return _line(time.time(), logging.WARNING, LogStream.__module__, message, {"dropped": count}) + "\n"


def _line(created: float, level: int, name: str, message: str, fields: Mapping[str, object]) -> str:
    line = {
        "time": f"{_second(int(created))}.{int(created % 1 * _MS_PER_S):03d}Z",
        "level": logging.getLevelName(level).lower(),
        "logger": name,
        "message": message,
        **fields,
    }
    return to_json(line, fallback=str).decode()


@lru_cache(1)
def _second(second: int) -> str:
    """Return a second of the clock as text; many lines tell the same."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def _level(done: Exchange) -> int:
    return logging.ERROR if done.status == _ERROR else logging.INFO


def _message(done: Exchange) -> str:
    return f"{done.method} {done.route} {done.status}"


def _fields(done: Exchange) -> dict[str, object]:
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
    return fields


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
