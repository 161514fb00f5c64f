"""Pages of other sites in a browser, where the settings name these: what they may send, and read of an answer."""

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from normtree.http.head.request_id import HEADER as REQUEST_ID
from normtree.http.head.trace_context import HEADER as TRACE
from normtree.settings import Settings

_METHODS = ("GET", "HEAD", "POST", "DELETE")
_EXPOSED = (
    "Server-Timing",
    "X-Normtree-Timing",
    "X-Normtree-Certificate",
    "X-Normtree-Converted",
    "X-Normtree-Trace",
    "Inference-Header-Content-Length",
    "Accept-Post",
    "Location",
    "Retry-After",
    "WWW-Authenticate",
    REQUEST_ID,
    TRACE,
)


def cross_origin(settings: Settings) -> list[Middleware]:
    """Return the middleware that lets pages of the origins that are set use the service; none where none is.

    A key that such a page shows is its own: the browser adds none (`Access-Control-Allow-Credentials` is not sent).
    """
    origins = settings.origins
    if not origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=_METHODS,
            allow_headers=["*"],
            expose_headers=_EXPOSED,
        )
    ]
