"""The environment that Ray and its workers read, once, when Ray is imported."""

import os
import secrets
import sys
from collections.abc import Mapping

FOLDER_WANTED = "set RAY_TMPDIR to a folder of this user's own, with a path of at most 26 characters"
"""What helps where Ray finds no place for its files: no rights, another's folder, too long paths of sockets."""
_BEYOND_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # Ray reads it on Linux too


def prepare_environment(*, embedded: bool) -> None:
    """Set what is not set already, before the first ``import ray``; after that it is too late and nothing is done.

    Args:
        embedded: whether the cluster will be a local one of our own.
    """
    if "ray" not in sys.modules:
        os.environ.update(ray_environment(os.environ, embedded=embedded))


def ray_environment(environment: Mapping[str, str], *, embedded: bool) -> dict[str, str]:
    """Return an environment with what Ray is to find in it, where it does not say otherwise.

    Args:
        environment: to begin with.
        embedded: whether the cluster will be a local one of our own. It then listens on loopback only, and gets a token
            of its own, which is never written to a file: without it, a port of Ray runs anybody's code.
    """
    found = {"RAY_USAGE_STATS_ENABLED": "0", "NUMBA_NUM_THREADS": "1", **environment}
    if embedded:
        found.setdefault(_BEYOND_LOOPBACK, "0")
    if embedded and found.setdefault("RAY_AUTH_MODE", "token") == "token":
        found.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    return found
