"""``/v1/jobs``: batch jobs over files in the service's folders; posted, listed, watched, cancelled, reported."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, StreamingResponse

from normtree import errors
from normtree.http.head import head_of
from normtree.http.media import answer_type
from normtree.http.problems import problem_responses
from normtree.http.receive import read_whole
from normtree.http.service import Service
from normtree.jobs.board import ENDED, JobBoard
from normtree.jobs.recipe import Recipe, parse_recipe, recipe_of
from normtree.jobs.roots import within

BODY_LIMIT_BYTES = 2**20
_JSON, _TOML, _HTML = "application/json", "application/toml", "text/html"
# A report is a picture to look at: names that others gave are in it, and no script may run.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; sandbox"
_POLL_S = 0.2
_KEEP_ALIVE_S = 15.0
_REQUEST = {
    "requestBody": {
        "required": True,
        "description": "A recipe: input, output, overlap, rules.",
        "content": {_JSON: {"schema": {"type": "object"}}, _TOML: {"schema": {"type": "string"}}},
    }
}
_POST_PROBLEMS = problem_responses(
    errors.MalformedBody,
    errors.BodyTimeout,
    errors.LengthRequired,
    errors.BodyTooLarge,
    errors.UnsupportedMediaType,
    errors.InvalidRecipe,
    errors.InvalidCheckpoint,
    errors.JobConflict,
    errors.NotReady,
    errors.StorageFailed,
)
_TAKEN: dict[int | str, dict[str, Any]] = {
    200: {"description": "The job that this Idempotency-Key came with."},
    202: {"description": "Taken."},
}


def jobs_router(service: Service, board: JobBoard) -> APIRouter:
    """Make the router of the batch jobs."""
    router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

    @router.post("", status_code=202, response_class=JSONResponse, responses={**_TAKEN, **_POST_PROBLEMS},
                 openapi_extra=_REQUEST)  # fmt: skip
    async def submit(
        request: Request, idempotency_key: Annotated[str | None, Header(max_length=200)] = None
    ) -> JSONResponse:
        """Take a job, or find the one that the same Idempotency-Key came with."""
        service.check_ready()
        recipe = await _read_recipe(request, service)
        roots = service.settings.jobs_folders
        recipe = await run_in_threadpool(within, recipe, roots)
        job, new = await run_in_threadpool(board.submit, recipe, idempotency_key)
        headers = {"Location": f"/v1/jobs/{job.id}"}
        return JSONResponse(job.as_dict(), 202 if new else 200, headers=headers)

    @router.get("")
    async def jobs() -> dict[str, list[dict[str, Any]]]:
        """List all jobs, the newest first."""
        return {"jobs": [job.as_dict() for job in board.all()]}

    @router.get("/{job_id}", responses=problem_responses(errors.JobNotFound))
    async def job(job_id: str) -> dict[str, Any]:
        """Tell how far a job is."""
        return board.get(job_id).as_dict()

    @router.delete("/{job_id}", responses=problem_responses(errors.JobNotFound))
    async def cancel(job_id: str) -> dict[str, Any]:
        """End a job; posted again, the same recipe resumes it."""
        return (await run_in_threadpool(board.cancel, job_id)).as_dict()

    @router.get("/{job_id}/events", response_class=StreamingResponse, responses={
        200: {"description": "Server-sent events: progress, then the state it ended in.",
              "content": {"text/event-stream": {"schema": {"type": "string"}}}},
        **problem_responses(errors.JobNotFound),
    })  # fmt: skip
    async def events(job_id: str) -> StreamingResponse:
        """Follow a job until it ends."""
        board.get(job_id)
        quiet = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(_events(service, board, job_id), media_type="text/event-stream", headers=quiet)

    @router.get("/{job_id}/report", response_class=Response, responses={
        200: {"description": "The report, as JSON or as a page.",
              "content": {_JSON: {"schema": {"type": "object"}}, _HTML: {"schema": {"type": "string"}}}},
        **problem_responses(errors.JobNotFound, errors.NotAcceptable, errors.JobConflict, errors.StorageFailed),
    })  # fmt: skip
    async def report(job_id: str, request: Request) -> Response:
        """Return the report of a job that has completed; a page where the client prefers one."""
        media_type = answer_type(head_of(request.scope), (_JSON, _HTML), "a report is written as")
        name = "report.html" if media_type == _HTML else "report.json"
        headers = {"Content-Security-Policy": _POLICY} if media_type == _HTML else None
        return Response(await run_in_threadpool(board.report, job_id, name), media_type=media_type, headers=headers)

    return router


async def _read_recipe(request: Request, service: Service) -> Recipe:
    """Read the body, bounded, and check that it is a recipe."""
    media_type = request.headers.get("content-type", "none").partition(";")[0].strip().lower()
    if media_type not in (_JSON, _TOML):
        detail = f"Content-Type: wanted {_JSON} or {_TOML}, got {media_type!r}"
        wanted = f"{_JSON}, {_TOML}"
        raise errors.UnsupportedMediaType(detail, pointer="Content-Type", limit=wanted, got=media_type)
    raw = await read_whole(request, service.settings, BODY_LIMIT_BYTES)
    try:
        text = raw.decode()
        return parse_recipe(text, "body") if media_type == _TOML else recipe_of(json.loads(text))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise errors.MalformedBody(f"body: no JSON: {error}", pointer="body") from None


async def _events(service: Service, board: JobBoard, job_id: str) -> AsyncIterator[str]:
    """Tell of each change until the job ends, or the service does."""
    told: dict[str, Any] | None = None
    quiet_s = 0.0
    while not service.admission.draining:
        job = board.get(job_id)
        now = job.as_dict()
        if now != told:
            told, quiet_s = now, 0.0
            name = job.state if job.state in ENDED else "progress"
            yield f"event: {name}\ndata: {json.dumps(now, separators=(',', ':'))}\n\n"
        if job.state in ENDED:
            return
        await asyncio.sleep(_POLL_S)
        quiet_s += _POLL_S
        if quiet_s >= _KEEP_ALIVE_S:
            quiet_s = 0.0
            yield ": still there\n\n"
