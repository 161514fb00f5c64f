"""``/v2/systemsharedmemory``: Triton's extension by which a client on this machine sends no tensors at all."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field, ValidationError

from normtree import errors
from normtree.http.access.auth import caller_of
from normtree.http.body.small_json import JSON_PROBLEMS, read_small_json
from normtree.http.inference.shared_regions import Regions
from normtree.http.problems import problem_responses
from normtree.http.request.shared_memory_bodies import check_local
from normtree.settings import Settings

_WHOLE = 2**63 - 1
_TEXT_SHOWN = 80


class Registration(BaseModel):
    """What is to be registered."""

    key: Annotated[str, Field(max_length=256, description="Name of the segment, as shm_open has it.")]
    offset: Annotated[int, Field(ge=0, le=_WHOLE, description="Bytes of the segment before the region.")] = 0
    byte_size: Annotated[int, Field(ge=1, le=_WHOLE, description="Bytes of the region.")]


_REQUEST = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": Registration.model_json_schema()}},
    }
}


async def _read_registration(request: Request, settings: Settings) -> Registration:
    """Read a request's JSON, whatever it is declared as: Triton's own client declares nothing.

    Raises:
        NormtreeError: as `read_small_json`.
        InvalidParameter: it is no registration.
    """
    try:
        return Registration.model_validate(await read_small_json(request, settings))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "request"
        limit, got = errors.bound_and_value(first)
        shown = "" if got is None else f", got {str(got)[:_TEXT_SHOWN]}"
        raise errors.InvalidParameter(f"{where}: {first['msg']}{shown}", pointer=where, limit=limit, got=got) from None


def shared_memory_router(regions: Regions, settings: Settings) -> APIRouter:
    """Make the router of the extension."""
    router = APIRouter(
        prefix="/v2/systemsharedmemory",
        tags=["shared memory"],
        dependencies=[Depends(check_local)],
        responses={
            **JSON_PROBLEMS,
            **problem_responses(errors.NotLocal, errors.RegionRefused, errors.InvalidParameter),
        },
    )

    @router.get("/status")
    async def all_regions(request: Request) -> list[dict[str, str | int]]:
        """List the regions that are the client's."""
        return regions.status(caller_of(request.scope))

    @router.get("/region/{name}/status")
    async def one_region(request: Request, name: str) -> list[dict[str, str | int]]:
        """Tell of one region."""
        return regions.status(caller_of(request.scope), name)

    @router.post("/region/{name}/register", openapi_extra=_REQUEST)
    async def register(request: Request, name: str) -> dict[str, object]:
        """Make a region of a part of a segment that the client has made."""
        wanted = await _read_registration(request, settings)
        regions.register(caller_of(request.scope), name, wanted.key, wanted.offset, wanted.byte_size)
        return {}

    @router.post("/region/{name}/unregister")
    async def unregister(request: Request, name: str) -> dict[str, object]:
        """Forget one region."""
        regions.unregister(caller_of(request.scope), name)
        return {}

    @router.post("/unregister")
    async def unregister_all(request: Request) -> dict[str, object]:
        """Forget all regions that are the client's."""
        regions.unregister(caller_of(request.scope))
        return {}

    return router
