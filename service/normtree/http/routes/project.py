"""``POST /v1/project``: tensors in, their projections out."""

from fastapi import APIRouter, Request, Response

from normtree import errors
from normtree.http.body_formats.negotiation import Formats
from normtree.http.description.tensor_problems import TENSOR_PROBLEMS
from normtree.http.head.query import query_parameters
from normtree.http.problems import problem_responses
from normtree.http.request.pipeline import serve
from normtree.http.request.service import Service
from normtree.http.watching.kept_traces import HEADER as TRACE_HEADER

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_HEADERS = {
    "Server-Timing": "Stages of the work, in milliseconds.",
    "X-Normtree-Timing": "The timing as JSON: stages, levels, work, span, wall, speed-up, overhead.",
    "X-Normtree-Certificate": "With certificate=1, evidence as JSON, where one tensor or one ball is told of.",
    "X-Normtree-Converted": "What was changed on the way in: fortran-order, big-endian.",
    TRACE_HEADER: "With trace=1, the path at which the trace is found for ten minutes.",
}


def project_router(service: Service, formats: Formats) -> APIRouter:
    """Make the router of projections, of bodies in the formats given."""
    router = APIRouter(tags=["projection"])
    bodies = dict.fromkeys(formats.readable, _BINARY)
    answers = {
        200: {
            "description": "The projections: the tensors' shapes and dtypes, C order, little-endian.",
            "content": bodies,
            "headers": {name: {"description": text, "schema": {"type": "string"}} for name, text in _HEADERS.items()},
        },
        **TENSOR_PROBLEMS,
        **problem_responses(errors.NotAcceptable),
    }
    described = {
        "parameters": query_parameters([each.query for each in formats.known]),
        "requestBody": {
            "required": True,
            "description": "A tensor as .npy, or several as safetensors.",
            "content": bodies,
        },
    }

    @router.post("/v1/project", response_class=Response, responses=answers, openapi_extra=described)
    async def project(request: Request) -> Response:
        """Project the tensors in the body onto the mixed-norm balls that the query describes."""
        return await serve(request, service, formats.open)

    return router
