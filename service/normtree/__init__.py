"""Project weight tensors onto mixed-norm balls, as a service, a batch job or a call.

Importing this package loads nothing heavy: no Ray, no FastAPI, no Numba, and the clients when they are first used.
The projection itself is in `normtree_kernels`; what is here knows of requests, clusters and files.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from normtree.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load the clients when they are asked for."""
    if name in ("AsyncClient", "Client"):
        from normtree import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
