"""``POST /v2/models/{name}/infer``: a tensor in, its projection out, by the Open Inference Protocol."""

from time import perf_counter
from typing import Any

from fastapi import APIRouter, Request, Response

from normtree import errors
from normtree.http.body_formats.inference_format import BINARY, JSON, LENGTH_HEADER
from normtree.http.body_formats.registry import INFERENCES
from normtree.http.description.tensor_problems import TENSOR_PROBLEMS
from normtree.http.inference.model import VERSION, find_model
from normtree.http.problems import problem_responses
from normtree.http.request.pipeline import serve
from normtree.http.request.service import Service
from normtree.http.request.work import ms

_COUNT = {"type": "integer", "minimum": 0}
_ANSWERS = {
    200: {
        "description": "The projection `x`: in the JSON, after it, or in shared memory.",
        "content": {JSON: {"schema": {"type": "object"}}, BINARY: {"schema": {"type": "string", "format": "binary"}}},
        "headers": {
            "Server-Timing": {
                "description": "Stages of the work, in milliseconds; the JSON's parameters tell more.",
                "schema": {"type": "string"},
            },
            LENGTH_HEADER: {"description": "Where a tensor follows the JSON, that one's length.", "schema": _COUNT},
        },
    },
    **TENSOR_PROBLEMS,
    **problem_responses(errors.RegionRefused, errors.NotLocal, errors.ModelNotFound),
}
_REQUEST = {
    "requestBody": {
        "required": True,
        "description": f"A request's JSON, then its tensor; {LENGTH_HEADER} is the length of the JSON.",
        "content": {JSON: {"schema": {"type": "object"}}, BINARY: {"schema": {"type": "string", "format": "binary"}}},
    },
}


def infer_router(service: Service) -> APIRouter:
    """Make the router of inferences."""
    router = APIRouter(prefix="/v2/models", tags=["inference"])
    described: dict[str, Any] = {"response_class": Response, "responses": _ANSWERS, "openapi_extra": _REQUEST}

    @router.post("/{name}/infer", **described)
    @router.post("/{name}/versions/{version}/infer", **described)
    async def infer(request: Request, name: str, version: str = VERSION) -> Response:
        """Project the tensor `y` onto the mixed-norm ball that the parameters describe."""
        model, started = find_model(name, version), perf_counter()
        statistics = service.statistics[model.name]
        try:
            answer = await serve(request, service, INFERENCES[model.name].open)
        except BaseException:
            statistics.failed(ms(started, perf_counter()))
            raise
        statistics.answered(request.scope["state"]["timing"])
        return answer

    return router
