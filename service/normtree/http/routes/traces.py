"""``GET /v1/traces/{name}``: a request's pieces of work as a picture that Perfetto opens."""

from fastapi import APIRouter, Request

from normtree import errors
from normtree.engine.timing.trace import chrome_trace
from normtree.http.access.auth import caller_of
from normtree.http.problems import problem_responses
from normtree.http.request.service import Service
from normtree.http.watching.kept_traces import PATH


def traces_router(service: Service) -> APIRouter:
    """Make the router of traces."""
    router = APIRouter(tags=["projection"])

    @router.get(PATH + "/{name}", responses=problem_responses(errors.TraceNotFound))
    def trace(name: str, request: Request) -> dict[str, object]:
        """Return the trace of a request that had ``trace=1``, in Chrome's format: open it at ui.perfetto.dev."""
        return chrome_trace(service.traces.find(name, caller_of(request.scope)))

    return router
