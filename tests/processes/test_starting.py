"""What a service that is started in a process of its own has to find: a port, and the time to get ready."""

import socket
import subprocess
import sys

import httpx
import pytest

from normtree.processes import starting
from normtree.processes.starting import free_port, wait_until_ready


def test_a_port_that_is_taken_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with pytest.raises(ValueError, match=f"port: {port} cannot be bound: Address already in use; name another"):
            free_port(port)
    assert free_port(port) == port


def test_a_service_that_ends_before_it_is_ready_is_told() -> None:
    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    process.wait()
    with (
        httpx.Client(base_url=f"http://127.0.0.1:{free_port()}") as client,
        pytest.raises(ValueError, match="the service ended with status 3 before it was ready"),
    ):
        wait_until_ready(client, process)


def test_a_service_that_is_not_ready_in_time_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "_READY_TIMEOUT_S", 0.5)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        with (
            httpx.Client(base_url=f"http://127.0.0.1:{free_port()}") as client,
            pytest.raises(ValueError, match="the service was not ready within"),
        ):
            wait_until_ready(client, process)
        process.kill()
