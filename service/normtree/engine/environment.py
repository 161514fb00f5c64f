"""The environment that Ray and its workers read, once, when Ray is imported."""

import os
import secrets
import sys


def prepare_environment(*, embedded: bool) -> None:
    """Set what is not set already, before the first ``import ray``; after that it is too late and nothing is done.

    Args:
        embedded: whether the cluster will be a local one of our own. It then gets a token of its own, which is
            never written to a file: without it, a port of Ray runs anybody's code.
    """
    if "ray" in sys.modules:
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("NUMBA_NUM_THREADS", "1")
    if embedded and os.environ.setdefault("RAY_AUTH_MODE", "token") == "token":
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
