"""``/v2/health``: whether the service lives, and whether it can take work. Always answered, whatever else is busy."""

from fastapi import APIRouter

from normtree.errors import NotReady
from normtree.http.problems import problem_responses
from normtree.http.request.service import Service
from normtree.jobs.board.board import JobBoard

_RETRY_AFTER_S = 1


def health_router(service: Service, board: JobBoard) -> APIRouter:
    """Make the router of the health checks."""
    router = APIRouter(prefix="/v2/health", tags=["health"])

    @router.get("/live")
    async def live() -> dict[str, bool]:
        """Answer 200 as long as the process serves at all."""
        return {"live": True}

    @router.get("/ready", responses=problem_responses(NotReady))
    async def ready() -> dict[str, bool | str]:
        """Answer 200 when a projection would be taken, and 503 before that and while draining.

        Where the service's batch jobs are in trouble, which projections are not, ``jobs`` says why.
        """
        if not service.ready:
            raise NotReady("the service is starting or draining", retry_after_s=_RETRY_AFTER_S)
        return {"ready": True} | ({"jobs": board.trouble} if board.trouble else {})

    return router
