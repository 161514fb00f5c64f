"""``/docs``: the interface to read and to try in a browser, every byte of it served by us."""

from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse

_ASSETS = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon.png": "image/png",
}
# The page starts by a script of its own; nothing on it may come from elsewhere, or be sent there.
_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_CACHED = "public, max-age=86400"
_CHOICES = {"validatorUrl": None, "displayRequestDuration": True, "tryItOutEnabled": True, "docExpansion": "list"}


def docs_router(title: str, openapi_url: str) -> APIRouter:
    """Make the router of the documentation. Its links are relative, for a proxy may put a path before all of ours.

    Args:
        title: of the page.
        openapi_url: path of the OpenAPI document that it shows.
    """
    router = APIRouter(include_in_schema=False)
    folder = Path(str(files("fastapi_offline") / "static"))
    page = get_swagger_ui_html(
        openapi_url=openapi_url.removeprefix("/"),
        title=title,
        oauth2_redirect_url=None,
        swagger_js_url="docs/swagger-ui-bundle.js",
        swagger_css_url="docs/swagger-ui.css",
        swagger_favicon_url="docs/favicon.png",
        swagger_ui_parameters=_CHOICES,
    )
    page.headers["Content-Security-Policy"] = _POLICY

    @router.get("/docs")
    async def docs() -> HTMLResponse:
        """Show the interface."""
        return page

    for name, media_type in _ASSETS.items():
        _add_asset(router, folder / name, media_type)
    return router


def _add_asset(router: APIRouter, path: Path, media_type: str) -> None:
    async def asset() -> FileResponse:
        """Return a part of the page."""
        return FileResponse(path, media_type=media_type, headers={"Cache-Control": _CACHED})

    router.add_api_route(f"/docs/{path.name}", asset, methods=["GET"])
