"""``/v2``: what the service and its models say of themselves by the Open Inference Protocol."""

from fastapi import APIRouter

from normtree import __version__
from normtree.errors import ModelNotFound, NotReady
from normtree.http.inference.model import MODELS, PLATFORM, VERSION, find_model
from normtree.http.problems import problem_responses
from normtree.http.request.service import Service

_EXTENSIONS = ("binary_tensor_data", "parameters", "model_configuration", "model_repository", "statistics")
_MISSING = problem_responses(ModelNotFound)


def models_router(service: Service) -> APIRouter:
    """Make the router of the descriptions."""
    router = APIRouter(prefix="/v2", tags=["inference"])

    @router.get("")
    async def server() -> dict[str, object]:
        """Tell name, version and the extensions of the protocol that are understood."""
        shared = ["system_shared_memory"] if service.regions else []
        return {"name": PLATFORM, "version": __version__, "extensions": [*_EXTENSIONS, *shared]}

    @router.post("/repository/index")
    async def index() -> list[dict[str, str]]:
        """List the models; all of them are always there."""
        state = "READY" if service.ready else "UNAVAILABLE"
        return [{"name": name, "version": VERSION, "state": state, "reason": ""} for name in MODELS]

    @router.get("/models/stats")
    async def all_statistics() -> dict[str, object]:
        """Tell how often each model was asked, and how long that took."""
        return {"model_stats": [statistics.as_dict() for statistics in service.statistics.values()]}

    @router.get("/models/{name}", responses=_MISSING)
    @router.get("/models/{name}/versions/{version}", responses=_MISSING)
    async def metadata(name: str, version: str = VERSION) -> dict[str, object]:
        """Describe a model: its input and its output."""
        return find_model(name, version).metadata()

    @router.get("/models/{name}/config", responses=_MISSING)
    @router.get("/models/{name}/versions/{version}/config", responses=_MISSING)
    async def config(name: str, version: str = VERSION) -> dict[str, object]:
        """Describe a model as Triton configures one."""
        return find_model(name, version).config()

    @router.get("/models/{name}/ready", responses=problem_responses(ModelNotFound, NotReady))
    @router.get("/models/{name}/versions/{version}/ready", responses=problem_responses(ModelNotFound, NotReady))
    async def ready(name: str, version: str = VERSION) -> dict[str, object]:
        """Answer 200 when the model would take a tensor."""
        model = find_model(name, version)
        service.check_ready()
        return {"name": model.name, "ready": True}

    @router.get("/models/{name}/stats", responses=_MISSING)
    @router.get("/models/{name}/versions/{version}/stats", responses=_MISSING)
    async def statistics(name: str, version: str = VERSION) -> dict[str, object]:
        """Tell how often a model was asked, and how long that took."""
        model = find_model(name, version)
        return {"model_stats": [service.statistics[model.name].as_dict()]}

    return router
