"""The application: routes, errors and middleware put together."""

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.middleware import Middleware

from normtree import __version__
from normtree.engine.projector import Projector
from normtree.http.access.auth import Auth
from normtree.http.access.cross_origin import cross_origin
from normtree.http.access.same_site import SameSite
from normtree.http.admission.admission import Admit
from normtree.http.bodiless import Bodiless
from normtree.http.body_formats.negotiation import Formats
from normtree.http.body_formats.registry import FORMATS
from normtree.http.description.docs import docs_router
from normtree.http.description.openapi import URL, install_openapi
from normtree.http.head.request_id import RequestId
from normtree.http.problems import HANDED_ON, Problems
from normtree.http.request.service import Service
from normtree.http.routes.health import health_router
from normtree.http.routes.infer import infer_router
from normtree.http.routes.info import info_router
from normtree.http.routes.jobs import jobs_router
from normtree.http.routes.metrics import metrics_router
from normtree.http.routes.models import models_router
from normtree.http.routes.plan import plan_router
from normtree.http.routes.project import project_router
from normtree.http.routes.shared_memory import shared_memory_router
from normtree.http.routes.traces import traces_router
from normtree.http.shortcut import Shortcut
from normtree.http.watching.lateness import lateness_told
from normtree.http.watching.log import log_request
from normtree.http.watching.metrics import Metrics
from normtree.http.watching.observe import Observe, Observer
from normtree.http.watching.telemetry import trace_requests
from normtree.jobs.board.board import open_board
from normtree.keys.key_ring import KeyRing
from normtree.settings import Settings


def create_app(
    projector: Projector, settings: Settings, log: Observer = log_request, formats: Formats = FORMATS
) -> FastAPI:
    """Make the ASGI application.

    Args:
        projector: started; the application neither starts nor closes it.
        settings: the same that the projector was started with.
        log: what logs requests; by default they go the way of all that is logged.
        formats: of bodies that hold tensors.
    """
    service = Service.of(projector, settings)
    keys = KeyRing(settings.keys, settings.keys_file)
    tensor_routers = project_router(service, formats), infer_router(service)
    tensor_routes = [route for router in tensor_routers for route in router.routes if isinstance(route, APIRoute)]
    metrics = Metrics(projector, service.admission, [route.path for route in tensor_routes])
    held = ExitStack()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with keys.watched(), held:
            async with lateness_told(metrics.note_late):
                yield
            service.close()

    app = FastAPI(
        title="normtree",
        summary="Project weight tensors onto mixed-norm balls.",
        version=__version__,
        lifespan=lifespan,
        openapi_url=None,  # ours tells of what middleware answers too
        telemetry={"tracing": False, "metrics": False, "logs": False},  # ours, `trace_requests`, is the only one
        redirect_slashes=False,  # a client that posts a tensor to a wrong path learns it at once
        middleware=[  # from the outside in
            Middleware(RequestId),
            Middleware(Observe, observers=(metrics.count, log)),
            *cross_origin(settings),
            Middleware(Problems, readable=formats.readable),
            Middleware(SameSite, settings=settings, keys_required=keys.required),
            Middleware(Auth, keys=keys),
            Middleware(Admit, admission=service.admission),
            Middleware(Bodiless),
            Middleware(Shortcut, routes=tensor_routes),
        ],
        exception_handlers=HANDED_ON,
    )
    app.state.admission = service.admission  # for the server, which drains it
    for tensor_router in tensor_routers:
        app.include_router(tensor_router)
    board = held.enter_context(open_board(settings))
    app.include_router(health_router(service, board))
    for router in (plan_router, models_router, info_router):
        app.include_router(router(service))
    if service.regions:
        app.include_router(shared_memory_router(service.regions, settings))
    app.include_router(jobs_router(service, board, keys))
    app.include_router(traces_router(service))
    app.include_router(metrics_router(metrics))
    app.include_router(docs_router(app.title, URL))
    install_openapi(app, keys_required=keys.required)
    trace_requests(app, held)
    return app
