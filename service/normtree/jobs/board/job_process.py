"""The process of a job: started, followed by what it tells, and ended, whatever state it is in."""

import json
import logging
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import IO, Any

from normtree.processes.ending import ending_with_us

STOP_S = 5.0
_LOOK_S = 0.2
_CHUNK_BYTES = 2**16
_LINE_BYTES = 2**20
_RECORD_BYTES = 2**14

logger = logging.getLogger(__name__)


class JobProcess:
    """A process that runs a job. It ends with the thread that started it.

    Args:
        id_: of the job, for the log.
        recipe: of the job.
        memory_bytes: bound of its buffers and aggregates; None: as the machine has it.
        workers: threads of it.
        roots: folders that it may not leave.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(
        self, id_: str, recipe: Mapping[str, Any], memory_bytes: int | None, workers: int, roots: Sequence[Path]
    ) -> None:
        """Start it."""
        self._id = id_
        self._kill_at_s: float | None = None
        module = ("-P", "-m", "normtree.jobs.child")  # -P: what lies in the working folder is no library
        arguments = ("/dev/stdin", str(memory_bytes or 0), str(workers), *map(str, roots))
        command = ending_with_us([sys.executable, *module, *arguments], signal.SIGKILL)
        with os.fdopen(os.memfd_create("recipe"), "wb") as file:
            file.write(json.dumps(recipe).encode())
            file.flush()
            self._process = subprocess.Popen(command, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def stop(self) -> None:
        """Ask it to end; it is killed where it has not after a while."""
        self._kill_at_s = monotonic() + STOP_S
        self._process.terminate()

    def follow(self, take: Callable[[dict[str, Any]], None], meanwhile: Callable[[], None]) -> int:
        """Take in what it tells until it ends, and return how it did.

        Args:
            take: called with each message. What it writes to standard error goes to the log.
            meanwhile: called now and then.
        """
        lines, errors = _Lines(take), _Errors(self._id)
        with self._process as process, selectors.DefaultSelector() as streams:
            _register(streams, process.stdout, lines.take)
            _register(streams, process.stderr, errors.take)
            try:
                self._follow(streams, errors, meanwhile)
            except BaseException:
                process.kill()
                raise
        errors.flush()
        return self._process.wait()

    def _follow(self, streams: selectors.BaseSelector, errors: "_Errors", meanwhile: Callable[[], None]) -> None:
        while streams.get_map():
            ready = streams.select(_LOOK_S)
            for key, _ in ready:
                data = os.read(key.fd, _CHUNK_BYTES)
                key.data(data)
                if not data:
                    streams.unregister(key.fileobj)
            if not ready:
                errors.flush()
                if self._process.poll() is not None:
                    return  # what it has started itself may hold the streams open
            meanwhile()
            if self._kill_at_s is not None and monotonic() > self._kill_at_s:
                self._process.kill()


class _Lines:
    """Puts messages together, a JSON object a line; a line that is none is some library's."""

    def __init__(self, take: Callable[[dict[str, Any]], None]) -> None:
        self._take, self._held = take, b""

    def take(self, data: bytes) -> None:
        *lines, self._held = (self._held + data).split(b"\n")
        self._held = self._held[:_LINE_BYTES]
        for line in lines:
            with suppress(ValueError):
                message = json.loads(line)
                if isinstance(message, dict):
                    self._take(message)


class _Errors:
    """Logs what a process writes to standard error: what comes together, such as a traceback, as one record."""

    def __init__(self, id_: str) -> None:
        self._id, self._held = id_, b""

    def take(self, data: bytes) -> None:
        self._held = (self._held + data)[-_RECORD_BYTES:]

    def flush(self) -> None:
        if text := self._held.decode(errors="replace").strip():
            logger.warning("a job's process wrote", extra={"fields": {"job": self._id, "stderr": text}})
        self._held = b""


def _register(streams: selectors.BaseSelector, stream: IO[bytes] | None, take: Callable[[bytes], None]) -> None:
    if stream is not None:
        streams.register(stream, selectors.EVENT_READ, take)
