"""The log: one line of JSON a record, and one record a request. No data, no secrets, no query."""

import json
import logging
import time

from normtree.http.exchange import Exchange

_MS_PER_S = 1e3
_DIGITS = 6
_ERROR = 500

logger = logging.getLogger("normtree.request")


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON: time (UTC), level, logger, message, and the ``fields`` it may have."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, separators=(",", ":"), default=str)


def log_to_stderr(level: str) -> None:
    """Send what this process logs to standard error, as lines of JSON."""
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
        "seconds": {"total": round(done.seconds, _DIGITS)},
        "bytes_in": done.bytes_in,
        "bytes_out": done.bytes_out,
    }
    if done.problem:
        fields["problem"] = done.problem
    if done.gone:
        fields["gone"] = True
    if done.timing:
        fields |= _of_timing(done)
    level = logging.ERROR if done.status == _ERROR else logging.INFO
    logger.log(level, "%s %s %d", done.method, done.route, done.status, extra={"fields": fields})


def _of_timing(done: Exchange) -> dict[str, object]:
    timing = done.timing
    if timing is None:
        return {}
    stages = {stage: round(took_ms / _MS_PER_S, _DIGITS) for stage, took_ms in timing.stages_ms.items()}
    return {
        "seconds": {**stages, "total": round(done.seconds, _DIGITS)},
        "engine": timing.engine,
        "reason": timing.reason,
        "norm": timing.norm,
        "shape": timing.shape,
        "dtype": timing.dtype,
        "workers": timing.workers,
        "retries": timing.retries,
        "parallel_efficiency": round(timing.efficiency, _DIGITS),
    }
