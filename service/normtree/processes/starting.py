"""A service that is being started in a process of its own: which port it may have, and when it is ready."""

import socket
import subprocess
from time import monotonic, sleep

import httpx

_READY_TIMEOUT_S = 300.0


def wait_until_ready(client: httpx.Client, process: "subprocess.Popen[bytes]") -> None:
    """Wait until the service answers that it is ready.

    Raises:
        ValueError: it ended, or was not ready in time.
    """
    end_s = monotonic() + _READY_TIMEOUT_S
    while monotonic() < end_s:
        if process.poll() is not None:
            raise ValueError(f"the service ended with status {process.returncode} before it was ready")
        try:
            if client.get("/v2/health/ready").is_success:
                return
        except httpx.TransportError:
            pass
        sleep(0.2)
    raise ValueError(f"the service was not ready within {_READY_TIMEOUT_S:.0f} s")


def free_port(wanted: int = 0) -> int:
    """Return a TCP port of the loopback address that is free now: the wanted one, or any for 0.

    Raises:
        ValueError: the wanted one is in use.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError as error:
            raise ValueError(f"port: {wanted} cannot be bound: {error.strerror}; name another, or 0 for any") from None
        return int(probe.getsockname()[1])
