"""Faults while a mixed load runs: processes killed and stopped, stores filled, connections broken in a storm.

A fault is survived when no answer was wrong, every refusal was a typed error, the service gives right answers again
within a bounded time after the fault has ended, and no lease of shared memory is left. Each fault meets a service of
its own, so that none hides behind another.
"""

import os
import signal
import socket
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from urllib.parse import urlsplit

import httpx
from flows import Flow, large, mixed, small
from mixed import MixedLoad
from service import Service, running
from watch import ray_workers, raylets

RECOVER_S, CLIENTS = 60.0, 3
STORM = 200
SETTINGS = {"workers": 2, "arena_bytes": 2**29}


@dataclass(frozen=True)
class Fault:
    """One fault.

    Args:
        name: for reports.
        strike: does it to a running service, lasts as long as the fault does, and tells what was seen.
        settings: of the service, beside the usual ones.
        flows: of the load.
        dies: whether the service may end by it, as long as it says so and a new one starts clean.
        clients: of the load.
    """

    name: str
    strike: Callable[[Service, float], str]
    settings: Mapping[str, object]
    flows: tuple[Flow, ...]
    dies: bool = False
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
    Fault("SIGKILL of the node's raylet", kill_raylet, {}, mixed(), dies=True),
    Fault("full store", fill_arena, {"arena_bytes": 2**27}, (small(),), clients=1),
    Fault("disconnect storm", storm, {}, mixed()),
)


def survive(fault: Fault, seconds: float) -> dict[str, Any]:
    """Start a service, load it, let the fault happen, and see what becomes of it.

    Args:
        fault: which.
        seconds: that it lasts.
    """
    with tempfile.TemporaryDirectory() as folder:
        with running(Path(folder, "log.txt"), {**SETTINGS, **fault.settings}) as service:
            with MixedLoad(service.url, fault.clients, flows=fault.flows) as load:
                sleep(1)
                seen = fault.strike(service, seconds)
                recovered_s = recover(service, fault.flows)
            lives = service.process.poll() is None
        left = service.segments
    tally = load.tally
    passed = not tally.wrong and not left and (recovered_s is not None or (fault.dies and not lives))
    return {"fault": fault.name, "seconds": seconds, **tally.as_dict(), "recovered_s": recovered_s,
            "segments_left": len(left), "lives": lives, "passed": passed, "seen": seen}  # fmt: skip


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


def measure(seconds: float) -> list[dict[str, Any]]:
    """Let every fault happen, each to a service of its own."""
    return [survive(fault, seconds) for fault in FAULTS]
