"""A projector in this process, and servers of applications in this process."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager

import pytest
import uvicorn

from normtree.engine.projector import Projector
from normtree.http.app import create_app
from normtree.http.server import server_config
from normtree.settings import Settings

WORKERS = 2
HANG_S = 60
Place = tuple[str, int]


@pytest.fixture(scope="session")
def projector() -> Iterator[Projector]:
    """A projector in this process, without Ray."""
    settings = Settings(inline_only=True, workers=WORKERS, arena_bytes=2**26)
    with Projector.start(settings) as found:
        yield found


@contextmanager
def running(server: uvicorn.Server) -> Iterator[Place]:
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            yield listening.getsockname()
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="session")
def run() -> Callable[[uvicorn.Server], AbstractContextManager[Place]]:
    """Return what runs a server on a thread of this process."""
    return running


@pytest.fixture(scope="session")
def place(projector: Projector) -> Iterator[Place]:
    """Where an application in this process is served."""
    settings = Settings(
        inline_only=True, workers=WORKERS, arena_bytes=2**26, head_limit_bytes=4096, head_timeout_s=HANG_S
    )
    with running(uvicorn.Server(server_config(create_app(projector, settings), settings))) as found:
        yield found
