"""``GET /v1/info``: what runs here, how fast it is, and what it accepts."""

import platform

from fastapi import APIRouter

from normtree import __version__
from normtree.extras import version_of
from normtree.http.request.service import Service

_LIMITS = (
    "rank_limit",
    "elements_limit",
    "arena_bytes",
    "queue_limit",
    "jobs_queue_limit",
    "key_rate_per_s",
    "key_burst",
    "key_bytes_limit",
    "head_limit_bytes",
    "head_timeout_s",
    "unread_timeout_s",
    "connections_limit",
    "body_timeout_s",
    "body_grace_s",
    "linger_limit_bytes",
    "linger_timeout_s",
    "deadline_s",
    "keep_alive_s",
    "drain_s",
)


def info_router(service: Service) -> APIRouter:
    """Make the router of the description."""
    router = APIRouter(tags=["info"])

    @router.get("/v1/info")
    async def info() -> dict[str, object]:
        """Tell versions, limits (bytes, seconds), the machine profile, and the engines."""
        return {
            "versions": {
                "normtree": __version__,
                "python": platform.python_version(),
                **{name: version_of(name) for name in ("numpy", "numba", "ray")},
            },
            "limits": {"body_limit_bytes": service.body_limit.nbytes}
            | {name: getattr(service.settings, name) for name in _LIMITS},
            "profile": service.projector.profile.readable(),
            "engine": service.projector.info(),
        }

    return router
