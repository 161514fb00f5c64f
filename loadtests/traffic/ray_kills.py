"""Requests on Ray by name while each kind of process of the embedded Ray is killed once.

`auto` would hide such a fault, for threads then answer. Asked by name, the service may refuse for as long as Ray is
away, at once and by 503 with `Retry-After`; no answer may be wrong, none later than its deadline, and within a minute
of each kill they must be right again.
"""

import os
import signal
import statistics
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx
from tools.service import running
from tools.watch import load_average, ray_parts, session_of

from traffic.flows import Flow, projection

RECOVER_S, SLACK_S = 60.0, 2.0
CLIENTS = 3
KINDS = (
    "gcs_server", "raylet", "DashboardAgent", "RuntimeEnvAgent", "log_monitor", "dashboard", "monitor", "driver",
    "Host",
)  # fmt: skip


@dataclass
class Book:
    """What came back.

    Args:
        deadline_s: after which an answer is late.
    """

    deadline_s: float
    right: list[float] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    refused_s: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)
    last_right_s: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def sent(self) -> int:
        return len(self.right) + self.refused.total() + len(self.wrong)

    def note(self, flow: Flow, answer: httpx.Response | str, began_s: float) -> None:
        """Book an answer, or what came instead of one."""
        took_s = monotonic() - began_s
        with self.lock:
            if took_s > self.deadline_s + SLACK_S:
                self.late_s.append(round(took_s, 2))
            if isinstance(answer, str):
                self.wrong.append(answer)
            elif flow.is_right(answer.status_code, answer.content):
                self.right.append(took_s)
                self.last_right_s = max(self.last_right_s, began_s)
            elif answer.status_code == 503 and "Retry-After" in answer.headers:
                self.refused[f"503 {answer.json()['code']}"] += 1
                self.refused_s.append(took_s)
            else:
                self.wrong.append(f"{answer.status_code} {answer.text[:200]!r}")


class Clients:
    """Clients that ask for Ray by name, until told to stop."""

    def __init__(self, url: str, flow: Flow, book: Book, pause_s: float) -> None:
        self._url, self._flow, self._book, self._pause_s = url, flow, book, pause_s
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(CLIENTS)]

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=4 * RECOVER_S) as client:
            while not self._stop.is_set():
                began_s = monotonic()
                try:
                    answer: httpx.Response | str = client.post(
                        self._flow.path, content=self._flow.body, headers=dict(self._flow.headers)
                    )
                except httpx.TransportError as error:
                    answer = f"{type(error).__name__}: {error}"
                self._book.note(self._flow, answer, began_s)
                self._stop.wait(self._pause_s)


def kill_each_kind(requests: int = 1000, restart_s: float = 60.0, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Kill each kind of process once, under load, and see what comes of it.

    Args:
        requests: to send, at least.
        restart_s: the service's own, and the least time from one kill to the next.
        say: is told how far it is.
    """
    flow = projection("on Ray by name", (256, 1024), "l1,l2", weight=1, engine="ray")
    book, kills = Book(deadline_s=55.0), []
    pause_s = CLIENTS * restart_s * len(KINDS) / requests
    settings = {"workers": 2, "arena_bytes": 2**27, "deadline_s": book.deadline_s, "ray_restart_s": restart_s}
    with tempfile.TemporaryDirectory() as folder, running(Path(folder, "log.txt"), settings) as service:
        with httpx.Client(base_url=service.url, timeout=RECOVER_S) as client:
            with Clients(service.url, flow, book, pause_s):
                sleep(5)
                for kind in KINDS:
                    kills.append(_kill(kind, service.process.pid, client, book, restart_s))
                    say(f"{kills[-1]}")
                while book.sent < requests:
                    sleep(0.1)
            restarts = client.get("/v1/info").json()["engine"]["ray"]["restarts"]
        ray = list(ray_parts(service.process.pid).items())
        began_s = monotonic()
        service.process.send_signal(signal.SIGTERM)
        status = service.process.wait(2 * RECOVER_S)
        ended_s = monotonic() - began_s
    left = {name: pid for name, pid in ray if session_of(pid)}
    return {
        "sent": book.sent, "right": len(book.right), "refused": dict(book.refused), "wrong": book.wrong[:20],
        "late_s": book.late_s, "slowest_right_s": _most(book.right), "slowest_refusal_s": _most(book.refused_s),
        "median_right_ms": round(1e3 * statistics.median(book.right), 2), "kills": kills, "restarts": restarts,
        "slowest_recovery_s": max(kill["recovered_s"] for kill in kills), "load_average": load_average(),
        "status": status, "ended_s": round(ended_s, 2), "left": left, "segments_left": len(service.segments),
        "passed": not (book.wrong or book.late_s or left or service.segments or status)
        and all(kill["recovered_s"] <= RECOVER_S for kill in kills),
    }  # fmt: skip


def _kill(kind: str, pid: int, client: httpx.Client, book: Book, restart_s: float) -> dict[str, Any]:
    """Kill one process, watch the service until its answers are right again, and let a while pass."""
    before = client.get("/v1/info").json()["engine"]["ray"]["restarts"]
    struck_s = monotonic()
    os.kill(ray_parts(pid)[kind], signal.SIGKILL)
    away_s = ready = None
    while monotonic() < struck_s + 2 * RECOVER_S:
        ray = client.get("/v1/info").json()["engine"]["ray"]
        if away_s is None and not ray["up"]:
            away_s = monotonic() - struck_s
            ready = client.get("/v2/health/ready").status_code
        if book.last_right_s > struck_s and ray["up"] and (ray["restarts"] > before or kind == "Host"):
            break
        sleep(0.05)
    recovered_s = monotonic() - struck_s
    sleep(max(0.0, struck_s + restart_s - monotonic()))
    return {"kind": kind, "away_s": away_s and round(away_s, 2), "ready_while_away": ready,
            "recovered_s": round(recovered_s, 2)}  # fmt: skip


def _most(seconds: list[float]) -> float:
    return round(max(seconds, default=0.0), 3)
