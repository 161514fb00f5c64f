"""A mixed load: clients that send what users send, check every answer, and keep count."""

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from time import monotonic, sleep

import httpx

from traffic.flows import Flow, mixed

REFUSED = (429, 503, 504)
TIMEOUT_S = 90


@dataclass
class Tally:
    """What came back, by kind; ``wrong`` names each answer that was neither right nor a refusal."""

    right: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    latencies_ms: dict[str, list[float]] = field(default_factory=dict)

    @property
    def sent(self) -> int:
        return self.right.total() + self.refused.total() + self.broken.total() + len(self.wrong)

    def as_dict(self) -> dict[str, object]:
        """Counts as plain values, for JSON."""
        return {
            "sent": self.sent,
            "right": dict(self.right),
            "refused": dict(self.refused),
            "broken": dict(self.broken),
            "wrong": self.wrong[:20],
        }


class MixedLoad:
    """Clients on threads, each with a connection of its own, until told to stop; each flow is sent once at least.

    Args:
        url: of the service.
        clients: how many send at once.
        pause_s: each client's rest between requests.
        flows: what they send.
    """

    def __init__(self, url: str, clients: int = 4, pause_s: float = 0.0, flows: Sequence[Flow] | None = None) -> None:
        self.tally = Tally()
        self._url, self._pause_s = url, pause_s
        self._flows = list(flows or mixed())
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(clients)]

    def __enter__(self) -> "MixedLoad":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        random = Random(number)
        weights = [flow.weight for flow in self._flows]
        with httpx.Client(base_url=self._url, timeout=TIMEOUT_S) as client:
            for flow in self._flows[number :: len(self._threads)]:
                self.send(client, flow)
            while not self._stop.is_set():
                self.send(client, random.choices(self._flows, weights)[0])
                self._stop.wait(self._pause_s)

    def send(self, client: httpx.Client, flow: Flow) -> bool:
        """Send one request and book its answer; tell whether it was right."""
        start_s = monotonic()
        try:
            answer = client.post(flow.path, content=flow.body, headers=dict(flow.headers))
        except httpx.TransportError as error:
            with self._lock:
                self.tally.broken[type(error).__name__] += 1
            sleep(0.05)  # a service that is down must not be asked in a tight loop
            return False
        right = flow.is_right(answer.status_code, answer.content)
        with self._lock:
            if right:
                self.tally.right[flow.name] += 1
                self.tally.latencies_ms.setdefault(flow.name, []).append(1e3 * (monotonic() - start_s))
            elif answer.status_code in REFUSED:
                self.tally.refused[f"{answer.status_code} {answer.json().get('code', '')}".strip()] += 1
            else:
                self.tally.wrong.append(f"{flow.name}: {answer.status_code} {answer.text[:200]!r}")
        if not right and answer.status_code in REFUSED:
            sleep(0.05)
        return right
