"""Serving: one process, with one Ray driver, until a signal ends it."""

import gc
import logging
import os
import shutil
import signal
import socket
from types import FrameType
from typing import NoReturn

from normtree.engine.memory.arena import arena_remedy, shared_memory
from normtree.engine.projector import Projector
from normtree.environment import unknown
from normtree.extras import has
from normtree.http.app import create_app
from normtree.http.body.body_limit import BodyLimit
from normtree.http.connection.malloc import keep_freed_memory
from normtree.http.server import DrainingServer, permit_descriptors, server_config
from normtree.http.watching.log import log_to_stderr
from normtree.processes.standard_streams import open_missing_streams
from normtree.settings import Settings

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_MOST_SHARE = 7 / 8  # of the shared memory
logger = logging.getLogger(__name__)


def serve(settings: Settings) -> None:
    """Start the engine, serve until SIGTERM or SIGINT, then drain and stop the engine.

    Args:
        settings: all there is to set.

    Raises:
        OSError: the address cannot be bound.
        EngineUnavailable: Ray cannot be started or reached.
        SystemExit: a signal came, and all is closed.
    """
    open_missing_streams()
    _check_address(settings.host, settings.port)
    log = log_to_stderr(settings.log_level)
    _leave_on_signals()
    settings = _fit_arena(settings)
    _warn_of_small_arena(settings)
    _warn_of_unknown_settings()
    if not has("ray"):
        logger.info("Ray is not installed, so leaves run on threads of this process: pip install 'normtree[ray]'")
    with Projector.start(settings, warm="first") as projector:
        connections = permit_descriptors(settings.connections_limit)
        settings = settings.model_copy(update={"connections_limit": connections})
        keep_freed_memory()
        app = create_app(projector, settings, log)
        gc.freeze()  # a collection then goes through what requests have made, and not through all that was imported
        DrainingServer(server_config(app, settings), app.state.admission, settings.drain_s).run()


def _warn_of_unknown_settings() -> None:
    for name, _ in unknown(os.environ, Settings.model_fields):
        logger.warning("%s is in the environment and is no setting; `normtree serve --help` lists them", name)


def _check_address(host: str, port: int) -> None:
    """Refuse an address that cannot be bound now, before all else takes its time to start."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise OSError(error.errno, f"no such address: {error.strerror}", host) from None
    for family, kind, protocol, _, address in found:
        try:
            probe = socket.socket(family, kind, protocol)
        except OSError:
            continue  # a family that this kernel does not speak, which the server passes over too
        with probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(address)
            except OSError as error:
                raise OSError(error.errno, f"cannot be bound: {error.strerror}", f"{host}:{port}") from None


def _fit_arena(settings: Settings) -> Settings:
    """Return settings whose arena the shared memory can hold; Ray's object store wants some of it, too."""
    total = shutil.disk_usage(shared_memory()).total
    if settings.inline_only or settings.arena_bytes <= _MOST_SHARE * total:
        return settings
    told = "arena: %s has %d bytes, of which half are taken, not NORMTREE_ARENA_BYTES, which are %d: %s"
    logger.warning(told, shared_memory(), total, settings.arena_bytes, arena_remedy(own=False))
    return settings.model_copy(update={"arena_bytes": total // 2})


def _warn_of_small_arena(settings: Settings) -> None:
    """Say at once, and not first to a client, that bodies cannot be as large as is set."""
    limit = BodyLimit.of(settings)
    if limit.nbytes < settings.body_limit_bytes:
        told = "bodies: at most %d bytes are accepted, not NORMTREE_BODY_LIMIT_BYTES, which are %d: %s"
        logger.warning(told, limit.nbytes, settings.body_limit_bytes, limit.why)


def _leave_on_signals() -> None:
    """Make both signals unwind the stack. While uvicorn runs it handles them itself, and raises them again after."""
    for number in _SIGNALS:
        signal.signal(number, _leave)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)  # another one would interrupt what cleans up
    raise SystemExit(0)
