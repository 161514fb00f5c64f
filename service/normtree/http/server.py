"""The server: uvicorn's, which drains before it stops listening."""

import asyncio
import logging
import os
import resource
import socket
from functools import partial
from time import monotonic

import uvicorn
from fastapi import FastAPI

from normtree.http.admission.admission import Admission
from normtree.http.connection.bounds import Bounds
from normtree.http.connection.connection_limit import Crowd
from normtree.http.connection.protocol import BoundedProtocol
from normtree.settings import Settings

_LEAST_STOP_S = 1
# Beside one descriptor a connection: segments, sockets, files. Where there are not so many, half of what there is.
_OTHER_DESCRIPTORS = 1024
_LOOK_S = 0.1
# A client whose connection idles just now may be about to send; so long it still gets an answer to that.
_NOTICE_S = 0.5

logger = logging.getLogger(__name__)


class DrainingServer(uvicorn.Server):
    """A server that, told to stop, goes on listening until what is in flight is answered.

    Meanwhile it is not ready and takes no new tensor, and says so; a balancer thus sees an answer, not a closed port.
    """

    def __init__(self, config: uvicorn.Config, admission: Admission, drain_s: float) -> None:
        """Make the server of an application whose tensors pass through ``admission``."""
        super().__init__(config)
        self._admission = admission
        self._drain_s = drain_s

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain, then stop. A second interrupt stops at once."""
        began_s = monotonic()
        end_s = began_s + self._drain_s
        for connection in self.server_state.connections:
            if isinstance(connection, BoundedProtocol):
                connection.last_answer()
        draining = asyncio.ensure_future(self._admission.drain(self._drain_s))
        while not (draining.done() or self.force_exit):
            await asyncio.wait({draining}, timeout=_LOOK_S)
        draining.cancel()
        while self.server_state.connections and monotonic() < began_s + _NOTICE_S and not self.force_exit:
            await asyncio.sleep(_LOOK_S)
        # For what is not a tensor, and for answers whose last bytes their clients have yet to take.
        self.config.timeout_graceful_shutdown = max(_LEAST_STOP_S, round(end_s - monotonic()))
        await super().shutdown(sockets)


def server_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """Configure uvicorn: its fast parser and loop, our bounds and times, and the log left to the caller."""
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=partial(BoundedProtocol, Bounds.of(settings), Crowd(settings.connections_limit)),  # type: ignore[arg-type]
        ws="none",
        lifespan="on",
        log_config=None,
        log_level=settings.log_level,
        access_log=False,
        server_header=False,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=settings.drain_s,
    )


def permit_descriptors(connections: int) -> int:
    """Raise this process's limit of open files, as far as it may, to what so many connections need.

    Returns:
        How many connections it then may have: these, or fewer where the limit cannot be raised that far.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_DESCRIPTORS
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= connections + _OTHER_DESCRIPTORS:
        return connections
    free = soft - len(os.listdir("/dev/fd"))
    possible = max(1, free - min(_OTHER_DESCRIPTORS, free // 2))
    told = "connections: this process may open %d files, enough for %d connections; not NORMTREE_CONNECTIONS_LIMIT, %d"
    logger.warning(told, soft, min(possible, connections), connections)
    return min(possible, connections)
