"""A service of our own to load: started on loopback in a process of its own, and ended with it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from normtree.engine.kernels import warm_kernels
from normtree.processes.ending import ending_with_us
from normtree.processes.starting import free_port, wait_until_ready

STOP_S = 60


@dataclass(frozen=True)
class Service:
    """A running service.

    Args:
        url: its base, on loopback.
        process: its process; Ray's are that process's children.
    """

    url: str
    process: "subprocess.Popen[bytes]"

    @property
    def segments(self) -> list[Path]:
        """Its segments of shared memory."""
        return list(Path("/dev/shm").glob(f"normtree-{self.process.pid}-*"))


@contextmanager
def running(log: Path, settings: Mapping[str, object] | None = None) -> Iterator[Service]:
    """Start a service and wait until it is ready; end it, and it alone, at the end.

    Args:
        log: file for what it prints.
        settings: its settings by name.
    """
    warm_kernels()  # not by the service, beside what is measured
    port = free_port()
    told = {f"NORMTREE_{name.upper()}": str(value) for name, value in (settings or {}).items()}
    command = ending_with_us([sys.executable, "-m", "normtree.cli", "serve", "--port", str(port)], signal.SIGKILL)
    environment = {"NORMTREE_LOG_LEVEL": "warning", "RAY_USAGE_STATS_ENABLED": "0", **os.environ, **told}
    with log.open("ab") as sink:
        process = subprocess.Popen(command, env=environment, stdout=sink, stderr=sink, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(base_url=url) as client:
            wait_until_ready(client, process)
        yield Service(url, process)
    finally:
        _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ask it to end, as an operator would; what is left of its own session after that is killed."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
