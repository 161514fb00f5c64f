"""Extras: what is installed on its own, and what to say to who lacks it.

Without any there are the library, `normtree project` and its kind, and jobs on threads. `client` brings
`normtree.Client`; `service` brings `normtree serve`, and the client; `ray` brings requests, jobs and tensors on Ray,
and where Ray is not there `auto` means threads; `serve` brings the service on Ray Serve, `s3` checkpoints behind URLs.
"""

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

# What of each is imported, as pyproject.toml names its distributions.
MODULES = {
    "client": ("httpx",),
    "service": ("httpx", "fastapi", "uvicorn", "httptools", "prometheus_client", "fastapi_offline"),
    "ray": ("ray",),
    "serve": ("httpx", "fastapi", "uvicorn", "httptools", "prometheus_client", "fastapi_offline", "ray"),
    "s3": ("fsspec",),  # which itself names the package of a scheme that it lacks
}


class ExtraMissing(ImportError):
    """What was asked for is of an extra that is not installed."""


def has(extra: str) -> bool:
    """Tell whether an extra is installed, without importing any of it."""
    return all(map(_is_there, MODULES[extra]))


def missing(who: str, *extras: str) -> ExtraMissing | None:
    """Return the error to raise where extras are not installed; None where they are.

    Args:
        who: what wants them, as its caller calls it.
        extras: their names.
    """
    lacking = [extra for extra in extras if not has(extra)]
    if not lacking:
        return None
    wanted = f"extra{'s' if len(lacking) > 1 else ''} {' and '.join(map(repr, lacking))}"
    return ExtraMissing(f"{who!r} wants the {wanted}: pip install 'normtree[{','.join(lacking)}]'")


def version_of(distribution: str) -> str | None:
    """Return the version of what is installed; None where it is not."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _is_there(module: str) -> bool:
    found = find_spec(module)
    return found is not None and found.origin is not None  # a mere folder of that name has none
