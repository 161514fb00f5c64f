"""How the service ends: by a signal in the middle of its start, and on standard streams that are full or closed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from normtree.processes.starting import free_port, wait_until_ready

HANG_S = 240.0


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where an embedded Ray keeps its files; a short path, for its sockets lie there."""
    folder = Path(f"/tmp/ntl-{os.getpid()}")
    folder.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    yield folder
    folder.rmdir()


def environment(port: int, **settings: object) -> dict[str, str]:
    told = {"port": port, "workers": 1, "arena_bytes": 2**24, **settings}
    paths = os.pathsep.join(path for path in sys.path if path)
    return {**os.environ, "PYTHONPATH": paths, **{f"NORMTREE_{k.upper()}": str(v) for k, v in told.items()}}


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


def below(pid: int) -> set[int]:
    """The processes below one."""
    found = [pid]
    for each in found:
        for children in Path(f"/proc/{each}/task").glob("*/children"):
            try:
                found += [int(child) for child in children.read_text().split()]
            except OSError:
                continue
    return set(found[1:])


@pytest.mark.kills
@pytest.mark.parametrize(("number", "until"), [(signal.SIGTERM, "raylet"), (signal.SIGINT, "engine.cluster.driver")])
def test_a_signal_while_ray_starts_leaves_nothing(number: signal.Signals, until: str, files: Path) -> None:
    serve = [sys.executable, "-m", "normtree.cli", "serve"]
    process = subprocess.Popen(serve, env=environment(free_port()), stderr=subprocess.DEVNULL)
    seen: set[int] = set()
    end_s = time.monotonic() + HANG_S
    while not any(until in command(pid) for pid in seen):
        assert process.poll() is None
        assert time.monotonic() < end_s
        seen = below(process.pid)
    process.send_signal(number)
    seen |= below(process.pid)
    assert process.wait(HANG_S) == 0
    assert not [command(pid) for pid in seen if command(pid)]
    assert list(files.iterdir()) == []
    assert not list(Path("/dev/shm").glob(f"normtree-{process.pid}-*"))


@pytest.mark.parametrize("streams", ["2>/dev/full", "2>&-", ">&- 2>&- <&-"])
def test_the_exit_status_tells_of_the_service_and_not_of_its_streams(streams: str) -> None:
    port = free_port()
    shell = ["sh", "-c", f'exec "{sys.executable}" -m normtree.cli serve {streams}']
    process = subprocess.Popen(shell, env=environment(port, inline_only=True))
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            wait_until_ready(client, process)
            assert client.get("/v1/info").status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(HANG_S) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("streams", ["2>/dev/full", "2>&-"])
def test_a_complaint_that_nobody_can_read_keeps_its_status(streams: str) -> None:
    shell = ["sh", "-c", f'exec "{sys.executable}" -m normtree.cli plan 30x40 --norm l1,l9 {streams}']
    assert subprocess.run(shell, env=environment(0), check=False).returncode == 2
