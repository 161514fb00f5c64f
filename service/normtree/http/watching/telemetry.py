"""OpenTelemetry: spans of requests by FastAPI's own instrumentation, where an exporter is configured."""

import logging
import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI

from normtree import __version__
from normtree.http.head.trace_context import TraceContext

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_EXPORTER = "OTEL_TRACES_EXPORTER"
_UNTRACED = "/v2/health/.*,/metrics"

logger = logging.getLogger(__name__)


def trace_requests(app: FastAPI, held: ExitStack) -> None:
    """Trace an application's requests if OpenTelemetry's own environment variables say where spans go.

    ``OTEL_TRACES_EXPORTER`` may be ``otlp`` (the default once an endpoint is set), ``console`` or ``none``.

    Args:
        app: not yet serving.
        held: what flushes the spans at the end.
    """
    kind = os.environ.get(_EXPORTER, "otlp" if any(map(os.environ.get, _ENDPOINTS)) else "none")
    if kind == "none":
        return
    try:
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        exporter = _exporters()[kind]()
    except (ImportError, KeyError) as error:
        logger.error("no traces: %s=%s needs `pip install normtree[otel]` (%s)", _EXPORTER, kind, error)
        return
    resource = Resource.create({"service.name": "normtree", "service.version": __version__})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    held.callback(provider.shutdown)
    FastAPIInstrumentor.instrument_app(
        app, tracer_provider=provider, excluded_urls=_UNTRACED, server_request_hook=_share,
        exclude_spans=["receive", "send"],
    )  # fmt: skip


def _exporters() -> "dict[str, Callable[[], SpanExporter]]":
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter

    return {"otlp": OTLPSpanExporter, "console": ConsoleSpanExporter}


def _share(span: "Span", scope: dict[str, Any]) -> None:
    """Let the answer and the log name the trace and the span that are exported."""
    context = span.get_span_context()
    trace = TraceContext(f"{context.trace_id:032x}", f"{context.span_id:016x}", f"{context.trace_flags:02x}")
    scope.setdefault("state", {})["trace"] = trace
