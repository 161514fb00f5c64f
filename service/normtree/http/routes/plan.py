"""``POST /v1/plan``: how a tensor would be projected, and how long that would take; no tensor is sent."""

from typing import Any

from fastapi import APIRouter, Request

from normtree import errors
from normtree.engine.plan import Plan
from normtree.formats.elements import BY_NAME, NAMES
from normtree.formats.shapes import check_shape
from normtree.http.body.small_json import JSON_PROBLEMS, read_small_json
from normtree.http.head.query import PlanQuery, read_parameters, without_null
from normtree.http.problems import problem_responses
from normtree.http.request.service import Service
from normtree.settings import Settings

_TEXT_SHOWN = 40
_SHAPE: dict[str, Any] = {
    "type": "array", "items": {"type": "integer", "minimum": 0}, "description": "Lengths of the axes.",
}  # fmt: skip
_DTYPE: dict[str, Any] = {"enum": list(BY_NAME), "default": "float32", "description": "Element type."}
_FIELDS = {name: without_null(field) for name, field in PlanQuery.model_json_schema()["properties"].items()}
_REQUEST = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {"shape": _SHAPE, "dtype": _DTYPE, **_FIELDS},
                    "required": ["shape"],
                    "additionalProperties": False,
                }
            }
        },
    }
}
_PROBLEMS = {**JSON_PROBLEMS, **problem_responses(errors.InvalidParameter, errors.InvalidTensor, errors.NotReady)}


def plan_router(service: Service) -> APIRouter:
    """Make the router of plans."""
    router = APIRouter(tags=["projection"])

    @router.post("/v1/plan", responses=_PROBLEMS, openapi_extra=_REQUEST)
    async def plan(request: Request) -> dict[str, object]:
        """Plan the projection of a tensor of that shape and type, and predict its time."""
        service.check_ready()
        given = await read_small_json(request, service.settings)
        if not isinstance(given, dict):
            raise errors.MalformedBody("request: an object is wanted", pointer="body")
        shape = _read_shape(given.pop("shape", None), service.settings)
        dtype = _read_dtype(given.pop("dtype", "float32"))
        query = read_parameters(PlanQuery, given)
        return _describe(service.projector.plan(shape, dtype, **query.plan_options()))

    return router


def _read_shape(found: object, settings: Settings) -> tuple[int, ...]:
    if not (isinstance(found, list) and all(type(length) is int and length >= 0 for length in found)):
        shown = "none" if found is None else str(found)[:_TEXT_SHOWN]
        wanted = "a list of integers >= 0"
        raise errors.InvalidParameter(f"shape must be {wanted}, got {shown}", pointer="shape", limit=wanted, got=shown)
    check_shape(found, "shape", rank_limit=settings.rank_limit, elements_limit=settings.elements_limit)
    return tuple(found)


def _read_dtype(found: object) -> str:
    if not (isinstance(found, str) and found in BY_NAME):
        shown = str(found)[:_TEXT_SHOWN]
        raise errors.InvalidTensor(
            f"dtype: wanted one of {NAMES}, got {shown}", pointer="dtype", limit=NAMES, got=shown
        )
    return found


def _describe(plan: Plan) -> dict[str, object]:
    """Return a plan as plain values, its table for people included."""
    return {
        "shape": list(plan.own_shape),
        "seen": list(plan.shape),
        "dtype": plan.dtype,
        "norm": plan.norm.text,
        "axes": plan.norm.axes_text,
        "goal": str(plan.goal),
        "exact": plan.exact,
        "engine": plan.engine,
        "workers": plan.workers,
        "blocks": len(plan.blocks),
        "reason": plan.reason,
        "predicted_ms": plan.predicted[plan.engine].wall_ms,
        "engines_ms": plan.predicted_ms,
        "levels_ms": list(plan.predicted[plan.engine].levels_ms),
        "serial_ms": plan.serial_ms,
        "table": str(plan),
    }
