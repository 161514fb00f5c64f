"""``/v1/jobs``: batch jobs over files in the service's folders; posted, listed, watched, cancelled, reported."""

from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.responses import JSONResponse

from normtree import errors
from normtree.formats.strict_json import parse_body
from normtree.http.access.auth import caller_of, client_name
from normtree.http.body.receive import read_whole
from normtree.http.head.head import head_of
from normtree.http.head.media import best
from normtree.http.job_events import JobEvents
from normtree.http.problems import problem_responses
from normtree.http.request.service import Service
from normtree.http.threads.slow_calls import Aside
from normtree.jobs.board.board import JobBoard, no_such_job
from normtree.jobs.board.job import Job
from normtree.jobs.board.roots import within
from normtree.jobs.recipe import Recipe, parse_recipe, recipe_of
from normtree.keys.key_ring import KeyRing

BODY_LIMIT_BYTES = 2**16
_JSON, _TOML, _HTML = "application/json", "application/toml", "text/html"
# A report is a picture to look at: names that others gave are in it, and no script may run.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; sandbox"
_WAITING = 64
_PAGE, _PAGE_MOST, _PAGE_BYTES = 100, 1000, 2**20
_REQUEST = {
    "requestBody": {
        "required": True,
        "description": "A recipe: input, output, overlap, rules.",
        "content": {_JSON: {"schema": {"type": "object"}}, _TOML: {"schema": {"type": "string"}}},
    }
}
_WAITED = (errors.QueueFull, errors.DeadlineExceeded)
_UNKNOWN = (errors.NotReady, errors.StorageFailed)  # the notes of jobs cannot be read yet
_POST_PROBLEMS = problem_responses(
    errors.MalformedBody,
    errors.BodyTimeout,
    errors.LengthRequired,
    errors.BodyTooLarge,
    errors.UnsupportedMediaType,
    errors.InvalidRecipe,
    errors.InvalidCheckpoint,
    errors.JobConflict,
    errors.StorageFull,
    *_WAITED,
    *_UNKNOWN,
)
_TAKEN: dict[int | str, dict[str, Any]] = {
    200: {"description": "The job that this Idempotency-Key came with."},
    202: {"description": "Taken."},
}


def jobs_router(service: Service, board: JobBoard, keys: KeyRing) -> APIRouter:
    """Make the router of the batch jobs."""
    router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
    deadline_s = service.settings.deadline_s
    taking = Aside("normtree-jobs-taking", _WAITING, deadline_s)
    reading = Aside("normtree-jobs-reading", _WAITING, deadline_s)
    follow = JobEvents(board, service.admission, keys).follow

    @router.post("", status_code=202, response_class=JSONResponse, responses={**_TAKEN, **_POST_PROBLEMS},
                 openapi_extra=_REQUEST)  # fmt: skip
    async def submit(
        request: Request, idempotency_key: Annotated[str | None, Header(max_length=200)] = None
    ) -> JSONResponse:
        """Take a job, or find the one that the same Idempotency-Key came with."""
        service.check_ready()
        raw, media_type = await _read_body(request, service)
        roots, owner = service.settings.jobs_folders, client_name(request.scope)
        job, new = await taking.run(
            lambda: board.submit(within(_parse(raw, media_type), roots), idempotency_key, owner)
        )
        headers = {"Location": f"/v1/jobs/{job.id}"}
        return JSONResponse(job.as_dict(), 202 if new else 200, headers=headers)

    @router.get("", responses=problem_responses(errors.JobNotFound, errors.InvalidParameter, *_UNKNOWN))
    async def jobs(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=_PAGE_MOST)] = _PAGE,
        before: Annotated[str | None, Query()] = None,
    ) -> dict[str, Any]:
        """List the client's jobs, the newest first; ``next`` is where the list goes on, null at its end."""
        caller = caller_of(request.scope)
        if before is not None:
            _find(board, before, request)
        found = board.page(limit + 1, before, None if caller.admin else caller.name)
        shown = _bounded(found[:limit])
        more = len(shown) < len(found)
        following = f"/v1/jobs?limit={limit}&before={shown[-1]['id']}" if more else None
        return {"jobs": shown, "next": following}

    @router.get("/{job_id}", responses=problem_responses(errors.JobNotFound, *_UNKNOWN))
    async def job(job_id: str, request: Request) -> dict[str, Any]:
        """Tell how far a job is."""
        return _find(board, job_id, request).as_dict()

    @router.delete("/{job_id}", responses=problem_responses(errors.JobNotFound, *_UNKNOWN))
    async def cancel(job_id: str, request: Request) -> dict[str, Any]:
        """End a job; posted again, the same recipe resumes it."""
        _find(board, job_id, request)
        return board.cancel(job_id).as_dict()

    async def followed(job_id: str, request: Request, response: Response) -> Job:
        response.headers["Cache-Control"] = "no-store"
        return _find(board, job_id, request)

    @router.get("/{job_id}/events", response_class=EventSourceResponse, responses={
        200: {"description": "Server-sent events: progress, then the state it ended in."},
        **problem_responses(errors.JobNotFound, *_UNKNOWN),
    })  # fmt: skip
    async def events(job: Annotated[Job, Depends(followed)], request: Request) -> AsyncIterator[ServerSentEvent]:
        """Follow a job until it ends."""
        async for event in follow(job.id, caller_of(request.scope).key):
            yield event

    @router.get("/{job_id}/report", response_class=Response, responses={
        200: {"description": "The report, as JSON or as a page.",
              "content": {_JSON: {"schema": {"type": "object"}}, _HTML: {"schema": {"type": "string"}}}},
        **problem_responses(errors.JobNotFound, errors.NotAcceptable, errors.JobConflict, *_WAITED, *_UNKNOWN),
    })  # fmt: skip
    async def report(job_id: str, request: Request) -> Response:
        """Return the report of a job that has completed; a page where the client prefers one."""
        media_type = best(head_of(request.scope).get("accept"), (_JSON, _HTML), "a report is written as")
        _find(board, job_id, request)
        name = "report.html" if media_type == _HTML else "report.json"
        headers = {"Content-Security-Policy": _POLICY} if media_type == _HTML else None
        return Response(await reading.run(lambda: board.report(job_id, name)), media_type=media_type, headers=headers)

    return router


def _find(board: JobBoard, job_id: str, request: Request) -> Job:
    """Return a job of the client's, or any for an admin.

    Raises:
        JobNotFound: there is none of that id, or it is another client's.
    """
    job = board.get(job_id)
    if not caller_of(request.scope).may_use(job.owner):
        raise no_such_job(job_id)
    return job


def _bounded(found: Sequence[Job]) -> list[dict[str, Any]]:
    """Return what is told of jobs, of one at least, up to about a page's bytes."""
    shown: list[dict[str, Any]] = []
    nbytes = 0
    for job in found:
        nbytes += job.recipe_bytes
        if shown and nbytes > _PAGE_BYTES:
            break
        shown.append(job.as_dict())
    return shown


async def _read_body(request: Request, service: Service) -> tuple[bytearray, str]:
    """Read the body, bounded, and tell its type."""
    media_type = request.headers.get("content-type", "none").partition(";")[0].strip().lower()
    if media_type not in (_JSON, _TOML):
        detail = f"Content-Type: wanted {_JSON} or {_TOML}, got {media_type!r}"
        wanted = f"{_JSON}, {_TOML}"
        raise errors.UnsupportedMediaType(detail, pointer="Content-Type", limit=wanted, got=media_type)
    return await read_whole(request, service.settings, BODY_LIMIT_BYTES), media_type


def _parse(raw: bytearray, media_type: str) -> Recipe:
    """Check that a body is a recipe."""
    if media_type == _JSON:
        return recipe_of(parse_body(raw, "body"))
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise errors.MalformedBody(f"body: it is not UTF-8 at byte {error.start}", pointer="body") from None
    return parse_recipe(text, "body")
