"""``GET /metrics``: what Prometheus scrapes."""

from fastapi import APIRouter, Request, Response
from prometheus_client.exposition import choose_encoder

from normtree.http.watching.metrics import Metrics


def metrics_router(metrics: Metrics) -> APIRouter:
    """Make the router of the metrics."""
    router = APIRouter(tags=["operation"])
    content = {
        "text/plain": {"schema": {"type": "string"}},
        "application/openmetrics-text": {"schema": {"type": "string"}},
    }

    @router.get("/metrics", response_class=Response, responses={200: {"description": "Metrics.", "content": content}})
    async def scrape(request: Request) -> Response:
        """Return all metrics, in Prometheus' text format or in OpenMetrics as `Accept` asks."""
        encode, media_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(metrics.registry), media_type=media_type)

    return router
