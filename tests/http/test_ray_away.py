"""Ray's own processes killed under the real service, each kind once: threads answer, and Ray comes back by itself."""

import io
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

import normtree_kernels as nk

pytestmark = pytest.mark.kills

KINDS = (
    "gcs_server", "raylet", "DashboardAgent", "RuntimeEnvAgent", "log_monitor", "dashboard", "monitor",
    "normtree.engine.cluster.driver",
)  # fmt: skip
HANG_S = 120.0
LISTENS = "0A"
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F"}  # of IPv4, and mapped into IPv6
DEADLINE_S = 30.0
Y = np.random.default_rng(0).standard_normal((200, 300), np.float32)
X = nk.project(Y, "l1,linf", 2.0)


def npy(y: Any) -> bytes:
    body = io.BytesIO()
    np.save(body, y, allow_pickle=False)
    return body.getvalue()


class Running:
    """A service whose Ray is killed."""

    def __init__(self, client: httpx.Client, process: "subprocess.Popen[bytes]") -> None:
        self.client = client
        self.process = process

    def project(self, engine: str) -> httpx.Response:
        return self.client.post(
            "/v1/project",
            params={"radius": 2, "engine": engine},
            content=npy(Y),
            headers={"Content-Type": "application/x-npy"},
        )

    def is_right(self, engine: str) -> bool:
        answer = self.project(engine)
        return answer.status_code == 200 and np.array_equal(np.load(io.BytesIO(answer.content)), X)

    def ray(self) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get("/v1/info").json()["engine"]["ray"]
        return found

    def metric(self, name: str) -> float:
        text = self.client.get("/metrics").text
        samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
        return next(sample.value for sample in samples if sample.name == name)

    @property
    def processes(self) -> dict[int, str]:
        """Command lines of the service's driver and of Ray's processes, which share its session."""
        found = {int(path.name): command_of(int(path.name)) for path in Path("/proc").iterdir() if path.name.isdigit()}
        drivers = [
            pid for pid, command in found.items() if "engine.cluster.driver" in command and parent_of(pid) == self.pid
        ]
        return {pid: command for pid, command in found.items() if session_of(pid) in drivers}

    @property
    def pid(self) -> int:
        return self.process.pid

    def one(self, kind: str) -> int:
        """The process of a kind."""
        (pid,) = [pid for pid, command in self.processes.items() if is_of(kind, command)]
        return pid

    def wait_until_back(self, restarts: int) -> None:
        end_s = time.monotonic() + HANG_S
        while not (self.ray()["up"] and self.ray()["restarts"] >= restarts):
            assert time.monotonic() < end_s, "Ray did not come back"
            assert self.client.get("/v2/health/ready").status_code == 200
            assert self.is_right("auto")
            time.sleep(0.2)


def is_of(kind: str, command: str) -> bool:
    words = command.split("\0")
    names = {Path(word).stem for word in words[:3] if word.endswith(".py")} or {Path(words[0]).stem}
    return kind in command if "." in kind else kind in names or words[0].strip() == f"ray::{kind}"


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").rstrip("\0 ")
    except OSError:
        return ""


def stat_of(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return ["X", "0", "0", "0"]


def parent_of(pid: int) -> int:
    return int(stat_of(pid)[1])


def session_of(pid: int) -> int:
    return int(stat_of(pid)[3])


@pytest.fixture(scope="module")
def running(serve: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service that may restart Ray at once; when it ends, with Ray just killed, nothing of it is left."""
    log = tmp_path_factory.mktemp("away") / "log.txt"
    limits = {"workers": 1, "arena_bytes": 2**26, "deadline_s": DEADLINE_S, "ray_restart_s": 0}
    with serve(log, **limits) as (base, process), httpx.Client(base_url=base, timeout=60) as client:
        found = Running(client, process)
        yield found
        left = found.processes
        os.kill(found.one("gcs_server"), signal.SIGKILL)
    assert {pid: command_of(pid) for pid in left if stat_of(pid)[0] not in "ZX"} == {}


@pytest.mark.parametrize("kind", KINDS)
def test_threads_answer_until_ray_is_back(running: Running, kind: str) -> None:
    before = running.ray()
    assert before["up"], before
    assert running.is_right("ray")
    os.kill(running.one(kind), signal.SIGKILL)
    end_s = time.monotonic() + HANG_S
    while running.ray()["up"]:
        assert time.monotonic() < end_s, "nobody noticed"
    refused, automatic, away = running.project("ray"), running.project("auto"), running.ray()
    if running.ray()["restarts"] == before["restarts"]:  # else it was back before all was asked
        assert (refused.status_code, refused.json()["code"]) == (503, "engine-unavailable")
        assert int(refused.headers["Retry-After"]) >= 1
        assert "Ray is away: its process" in refused.json()["detail"]
        timing = automatic.headers["X-Normtree-Timing"]
        assert '"engine":"inline"' in timing
        assert '"reason":"Ray is away' in timing
        assert (away["up"], away["nodes"]) == (False, 0)
        assert away["away_since"]
        assert "has ended" in away["away_because"]
        assert running.metric("normtree_workers_ready") == running.metric("normtree_ray_up") == 0
    running.wait_until_back(before["restarts"] + 1)
    assert running.is_right("ray")
    assert running.metric("normtree_workers_ready") == running.metric("normtree_ray_up") == 1
    assert running.metric("normtree_ray_restarts_total") == before["restarts"] + 1


def listening(pid: int) -> set[str]:
    """Addresses at which a process listens, as the kernel writes them."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            inodes.add(os.readlink(descriptor).removeprefix("socket:[").removesuffix("]"))
    rows = [row.split() for name in ("tcp", "tcp6") for row in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return {row[1].partition(":")[0] for row in rows if row[3] == LISTENS and row[9] in inodes}


def test_ray_listens_on_loopback_only_and_its_files_are_the_service_s_own(running: Running) -> None:
    found = {command.split("\0")[0]: listening(pid) for pid, command in running.processes.items()}
    assert set().union(*found.values()) == LOOPBACK, found
    raylet = command_of(running.one("raylet"))
    (session,) = {Path(word.partition("=")[2]) for word in raylet.split("\0") if word.startswith("--session_dir=")}
    assert session.parent.parent.stat().st_mode & 0o777 == 0o700
    modes = []
    for folder in Path("/dev/shm").glob("ntlines-*"):  # other services' too
        with suppress(FileNotFoundError):
            modes.append(folder.stat().st_mode & 0o777)
    assert set(modes) == {0o700}


def test_stopped_processes_of_ray_change_nothing(running: Running) -> None:
    restarts = running.ray()["restarts"]
    stopped = [running.one(kind) for kind in ("gcs_server", "raylet", "DashboardAgent", "RuntimeEnvAgent")]
    try:
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        for _ in range(10):
            assert running.is_right("ray")
            time.sleep(0.1)
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    assert running.is_right("ray")
    assert running.ray()["restarts"] == restarts
    assert running.ray()["up"]


def test_stopped_workers_are_noticed_and_replaced(running: Running) -> None:
    workers = [pid for pid, command in running.processes.items() if command.startswith("ray::Host")]
    assert len(workers) == 2
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    assert running.metric("normtree_workers_ready") == 0
    assert running.is_right("ray")
    assert running.metric("normtree_workers_ready") == 1
    assert not set(workers) & {pid for pid in running.processes if stat_of(pid)[0] not in "ZX"}
