"""Faults while a mixed load runs: processes killed and stopped, stores filled, connections broken in a storm.

A fault is survived when no answer was wrong, every refusal was a typed error, the service gives right answers again
within a bounded time after the fault has ended, and no lease of shared memory is left. Each fault meets a service of
its own, so that none hides behind another.
"""

import json
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from urllib.parse import urlsplit

import httpx
from hosts.nodes import PORT, cluster
from hosts.wire import missing, wire
from tools.service import Service, running
from tools.watch import ray_workers, raylets
from traffic.flows import Flow, large, mixed, small
from traffic.job_load import Checkpoint
from traffic.mixed import MixedLoad, Tally
from traffic.ray_kills import kill_each_kind

RECOVER_S, CLIENTS = 60.0, 3
STORM, DISK_BYTES = 200, 64 << 20
SETTINGS = {"workers": 2, "arena_bytes": 2**29}


@dataclass(frozen=True)
class Fault:
    """One fault.

    Args:
        name: for reports.
        strike: does it to a running service, lasts as long as the fault does, and tells what was seen.
        settings: of the service, beside the usual ones.
        flows: of the load.
        clients: of the load.
    """

    name: str
    strike: Callable[[Service, float], str]
    settings: Mapping[str, object]
    flows: tuple[Flow, ...]
    clients: int = CLIENTS


def kill_workers(service: Service, seconds: float) -> str:
    """SIGKILL one of Ray's workers every two seconds."""
    return f"{_signal_in_turn(service, seconds, signal.SIGKILL)} workers killed"


def stop_workers(service: Service, seconds: float) -> str:
    """SIGSTOP all but one of Ray's workers for a while, then let them go on."""
    stopped = ray_workers(service.process.pid)[1:]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    sleep(seconds)
    for pid in stopped:
        with suppress(ProcessLookupError):  # given up and replaced meanwhile
            os.kill(pid, signal.SIGCONT)
    return f"{len(stopped)} stopped for {seconds:.0f} s, then continued"


def kill_raylet(service: Service, seconds: float) -> str:
    """SIGKILL the node: its raylet, and with it its workers and its object store."""
    killed = raylets(service.process.pid)
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    sleep(seconds)
    status = service.process.poll()
    became = "the service goes on" if status is None else f"the service ended with status {status}"
    return f"{len(killed)} killed; {became}"


def fill_arena(service: Service, seconds: float) -> str:
    """Let many large requests come at once, for more shared memory than there is."""
    with MixedLoad(service.url, clients=10, flows=[large()]) as load:
        sleep(seconds)
    refused = load.tally.refused.total()
    wrong = f", {len(load.tally.wrong)} wrong" if load.tally.wrong else ""
    return f"of {load.tally.sent} large requests {load.tally.right.total()} right, {refused} refused{wrong}"


def storm(service: Service, seconds: float) -> str:
    """Open connections, send a part of a body, and hang up hard."""
    place = urlsplit(service.url)
    flow = large()
    head = f"POST {flow.path} HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: {flow.content_type}\r\n"
    request = f"{head}Content-Length: {len(flow.body)}\r\n\r\n".encode() + flow.body[: 1 << 20]
    end_s, broken = monotonic() + seconds, 0
    while broken < STORM and monotonic() < end_s:
        with socket.create_connection((place.hostname, place.port), timeout=10) as line:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # a reset, not a goodbye
            line.sendall(request)
        broken += 1
    return f"{broken} connections reset in mid-body"


def _signal_in_turn(service: Service, seconds: float, number: signal.Signals) -> int:
    end_s, hit = monotonic() + seconds, 0
    while monotonic() < end_s:
        for pid in ray_workers(service.process.pid)[:1]:
            os.kill(pid, number)
            hit += 1
        sleep(2)
    return hit


FAULTS = (
    Fault("SIGKILL of workers", kill_workers, {}, mixed()),
    Fault("SIGSTOP of workers", stop_workers, {"deadline_s": 4}, mixed()),
    Fault("SIGKILL of the node's raylet", kill_raylet, {}, mixed()),
    Fault("full store", fill_arena, {"arena_bytes": 2**27, "queue_limit": 3}, (small(),), clients=1),
    Fault("disconnect storm", storm, {}, mixed()),
)


def meet(fault: Fault, service: Service, seconds: float) -> tuple[Tally, str, float | None]:
    """Load a service and let the fault happen to it.

    Args:
        fault: which; the service should have its settings.
        service: that runs.
        seconds: that it lasts.

    Returns:
        What was answered, what was seen of the fault, and how long until all was answered right again, if it was.
    """
    with MixedLoad(service.url, fault.clients, flows=fault.flows) as load:
        sleep(1)
        seen = fault.strike(service, seconds)
        recovered_s = recover(service, fault.flows)
    return load.tally, seen, recovered_s


def survive(fault: Fault, seconds: float) -> dict[str, Any]:
    """Start a service, load it, let the fault happen, and see what becomes of it.

    Args:
        fault: which.
        seconds: that it lasts.
    """
    with tempfile.TemporaryDirectory() as folder:
        with running(Path(folder, "log.txt"), {**SETTINGS, **fault.settings}) as service:
            tally, seen, recovered_s = meet(fault, service, seconds)
            lives = service.process.poll() is None
        left = service.segments
    slowest_s = max((ms for each in tally.latencies_ms.values() for ms in each), default=0.0) / 1e3
    passed = not tally.wrong and not left and recovered_s is not None
    return {"fault": fault.name, "seconds": seconds, **tally.as_dict(), "slowest_s": round(slowest_s, 2),
            "recovered_s": recovered_s, "segments_left": len(left), "lives": lives, "passed": passed,
            "seen": seen}  # fmt: skip


def full_disk() -> dict[str, Any]:
    """A job whose output meets a disk that is full, and then one that is not."""
    if os.geteuid() != 0:
        return {}
    with tempfile.TemporaryDirectory() as name, _small_disk(Path(name, "disk")) as disk:
        checkpoint = Checkpoint.make(Path(name, "job"), shards=4, shard_bytes=1 << 22, output=disk / "out")
        before = checkpoint.digests(checkpoint.folder / "in")
        filler = disk / "filler"
        filler.write_bytes(bytes(DISK_BYTES - (6 << 20)))
        complaint = checkpoint.run("--engine", "inline")
        filler.unlink()
        again = checkpoint.run("--engine", "inline")
        intact = checkpoint.digests(checkpoint.folder / "in") == before
        whole = len(checkpoint.digests(checkpoint.output)) == 4
    told = complaint.splitlines()[-1].replace(f"{disk}/", "") if complaint else "no complaint"
    return _of_job(
        "full disk", f"{told}; then with room: {again or 'done'}", bool(complaint) and not again and whole, intact
    )


def kill_node() -> dict[str, Any]:
    """A job on two nodes of which one is killed in its middle."""
    if missing():
        return {}
    with tempfile.TemporaryDirectory(prefix="nt", dir="/tmp") as name, wire() as made:
        made.set(gbit_s=10, round_trip_ms=0.1)
        checkpoint = Checkpoint.make(Path(name, "job"), shards=16, shard_bytes=1 << 25)
        alone = checkpoint.run("--engine", "inline")
        right = checkpoint.digests(checkpoint.output)
        checkpoint.clear()
        with cluster(made, Path(name, "ray")) as nodes:
            address = ("--address", f"{made.addresses[0]}:{PORT}", "--workers", "2")
            process = checkpoint.start(*address, before=("env", "RAY_AUTH_MODE=disabled", *made.command(0)))
            end_s = monotonic() + RECOVER_S
            while process.poll() is None and monotonic() < end_s and not checkpoint.digests(checkpoint.output):
                sleep(0.02)
            in_time = process.poll() is None
            for pid in raylets(nodes[1].pid):
                os.kill(pid, signal.SIGKILL)
            start_s = monotonic()
            _, complaint = process.communicate(timeout=2 * RECOVER_S)
            same = checkpoint.digests(checkpoint.output) == right
    seen = (
        f"{'killed in mid-job' if in_time else 'the job was done before'}; {complaint.strip()[-200:] or 'same bytes'}"
    )
    found = _of_job("SIGKILL of a node", seen, same and not alone and in_time, True)
    return {**found, "recovered_s": round(monotonic() - start_s, 2)}


def _of_job(name: str, seen: str, right: bool, intact: bool) -> dict[str, Any]:
    """A fault that met a job, in the form of the others."""
    wrong = [] if right and intact else [seen if intact else "the input was changed"]
    return {"fault": name, "seconds": 0.0, "sent": 1, "right": {"job": int(not wrong)}, "refused": {}, "broken": {},
            "wrong": wrong, "slowest_s": None, "recovered_s": None, "segments_left": 0, "lives": True,
            "passed": not wrong, "seen": seen}  # fmt: skip


@contextmanager
def _small_disk(place: Path) -> Iterator[Path]:
    """A disk of its own, in memory."""
    place.mkdir()
    options = ("-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(place))
    subprocess.run(["mount", *options], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def recover(service: Service, flows: tuple[Flow, ...]) -> float | None:
    """Wait until every right flow is answered right in a row; None where that does not happen."""
    start_s = monotonic()
    good = [flow for flow in flows if flow.status == 200]
    while monotonic() < start_s + RECOVER_S and service.process.poll() is None:
        since_s = monotonic() - start_s
        try:
            with httpx.Client(base_url=service.url, timeout=RECOVER_S) as client:
                answers = [client.post(f.path, content=f.body, headers=dict(f.headers)) for f in good]
        except httpx.TransportError:
            sleep(0.2)
            continue
        if all(f.is_right(answer.status_code, answer.content) for f, answer in zip(good, answers, strict=True)):
            return round(since_s, 2)
        sleep(0.2)
    return None


def measure(seconds: float, say: Callable[[str], None] = print) -> list[dict[str, Any]]:
    """Let every fault happen, each to a service of its own; two meet jobs, where this user may make disks and nodes.

    Args:
        seconds: that each lasts.
        say: is told how far it is.
    """
    found = []
    for fault in FAULTS:
        say(fault.name)
        found.append(survive(fault, seconds))
    for name, happen in (("full disk", full_disk), ("SIGKILL of a node", kill_node)):
        say(name)
        if met := happen():
            found.append(met)
    return found


if __name__ == "__main__":
    print(json.dumps(kill_each_kind(), indent=2))
