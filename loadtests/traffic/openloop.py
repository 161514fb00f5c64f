"""An open-loop generator: every request has an intended time, and its latency counts from there.

Usage: python loadtests/traffic/openloop.py --url http://127.0.0.1:8000/v1/project?... --body FILE --expect FILE
       --rate 100 --seconds 10

Users do not wait for each other's answers, so neither does the generator: requests are due at the times of a Poisson
process drawn beforehand, whatever the service does. A request that is due while all connections are busy waits for one,
and its wait is latency. So a stalled service is charged for everybody who would have come meanwhile (no coordinated
omission). The generator runs in a process of its own and reports its own share of the CPU and how late it was itself;
where either is large, its figures say more of it than of the service.
"""

import argparse
import asyncio
import json
import resource
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from ipaddress import ip_address
from pathlib import Path
from time import perf_counter, sleep
from typing import cast
from urllib.parse import urlsplit

import httptools
import numpy as np
import uvloop

LARGEST_RATE, LONGEST_S, MOST_CONNECTIONS = 20_000.0, 120.0, 512
GRACE_S = 5.0
HTTP_PORT = 80
REJECTIONS = (429, 503)
UNANSWERED = 0


@dataclass
class Shot:
    """One request: when it was due, fired, sent, and when its answer was whole (seconds), and its status.

    Between due and fired it waits for the generator, between fired and sent for a connection.
    """

    due_s: float
    fired_s: float = 0.0
    sent_s: float = 0.0
    done_s: float = 0.0
    status: int = UNANSWERED
    right: bool = False
    told_when: bool = False  # its rejection said after how long to come again

    @property
    def latency_ms(self) -> float:
        return 1e3 * (self.done_s - self.due_s)


@dataclass(frozen=True)
class Summary:
    """What came of one offered rate. Latencies are of right answers, from the intended time, in milliseconds.

    A percentile is None where fewer than ten requests lie beyond it: it would be a guess. ``rejected_as`` counts
    rejections by status, ``told_when`` those that said when to come again (Retry-After).
    """

    offered_per_s: float
    sent: int
    good: int
    rejected: int
    rejected_as: dict[str, int]
    told_when: int
    wrong: int
    failed: int
    unanswered: int
    goodput_per_s: float
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    p999_ms: float | None
    worst_ms: float | None
    rejected_p50_ms: float | None
    generator_cpu: float
    generator_late_p99_ms: float


def arrivals(rate: float, seconds: float, seed: int) -> np.ndarray:
    """Draw the times of a Poisson process, in seconds from its start; the same for the same seed."""
    gaps = np.random.default_rng(seed).exponential(1 / rate, int(rate * seconds * 2) + 50)
    times = np.cumsum(gaps)
    return times[times < seconds]


def percentile(values: Sequence[float], share: float) -> float | None:
    """Percentile of latencies; None where it would rest on fewer than ten values."""
    if len(values) * (1 - share) < 10:
        return None
    return float(np.quantile(values, share))


def check_local(host: str) -> None:
    """Refuse to load any other machine than this one.

    Raises:
        ValueError: not a loopback address.
    """
    if host != "localhost" and not ip_address(host).is_loopback:
        raise ValueError(f"url: wanted a loopback address, got {host!r}: only this machine may be loaded")


class Line(asyncio.Protocol):
    """One connection: at most one request at a time."""

    def __init__(self, generator: "Generator") -> None:
        self._generator = generator
        self._shot: Shot | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def send(self, shot: Shot) -> None:
        self._shot = shot
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        shot.sent_s = perf_counter()
        self._transport.write(self._generator.request)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._shot and name.lower() == b"retry-after":
            self._shot.told_when = value.isdigit()

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        if self._shot:
            shot, self._shot = self._shot, None
            shot.done_s = perf_counter()
            shot.status = self._parser.get_status_code()
            shot.right = shot.status == 200 and b"".join(self._body) == self._generator.expected
        if self._parser.should_keep_alive():
            self._generator.free(self)
        else:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if self._shot:
            self._shot.done_s, self._shot.status = perf_counter(), -1
        self._generator.lost(self)

    def abort(self) -> None:
        self._shot = None
        self._transport.abort()


class Generator:
    """Fires one request over and over at given times.

    Args:
        url: of the service, on loopback, with the query.
        body: of every request.
        expected: the right answer's body.
        connections: at most so many at once.
        headers: lines to add to the request's head.
    """

    def __init__(
        self, url: str, body: bytes, expected: bytes, connections: int = 128, headers: Sequence[str] = ()
    ) -> None:
        place = urlsplit(url)
        self._host, self._port = place.hostname or "", place.port or HTTP_PORT
        check_local(self._host)
        head = [
            f"POST {place.path}?{place.query} HTTP/1.1",
            f"Host: {place.netloc}",
            "Content-Type: application/x-npy",
            f"Content-Length: {len(body)}",
            *headers,
            "",
            "",
        ]
        self.request = "\r\n".join(head).encode() + body
        self.expected = expected
        self._limit = min(connections, MOST_CONNECTIONS)
        self._idle: list[Line] = []
        self._lines: set[Line] = set()
        self._opening = 0
        self._backlog: deque[Shot] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    def free(self, line: Line) -> None:
        """A connection's answer is whole: it takes who waits longest."""
        if self._backlog:
            line.send(self._backlog.popleft())
        else:
            self._idle.append(line)

    def lost(self, line: Line) -> None:
        """A connection is gone: who waits gets a new one."""
        self._lines.discard(line)
        if line in self._idle:
            self._idle.remove(line)
        if self._backlog:
            self._open(self._backlog.popleft())

    def fire(self, shot: Shot) -> None:
        """A request is due."""
        shot.fired_s = perf_counter()
        if self._idle:
            self._idle.pop().send(shot)
        elif len(self._lines) + self._opening < self._limit:
            self._open(shot)
        else:
            self._backlog.append(shot)

    def _open(self, shot: Shot) -> None:
        self._opening += 1
        task = asyncio.get_running_loop().create_task(self._open_and_send(shot))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _open_and_send(self, shot: Shot) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, line = await loop.create_connection(lambda: Line(self), self._host, self._port)
        except OSError:
            shot.done_s, shot.status = perf_counter(), -1
            return
        finally:
            self._opening -= 1
        self._lines.add(line)
        line.send(shot)

    async def run_closed(self, clients: int, seconds: float) -> list[Shot]:
        """Send a next request whenever one is answered: what the service can do, not what its users would wait."""
        end_s = perf_counter() + seconds
        shots: list[Shot] = []
        self._limit = clients
        while perf_counter() < end_s:
            while len(self._backlog) < clients:
                shots.append(Shot(perf_counter()))
                self.fire(shots[-1])
            await asyncio.sleep(0.001)
        return await self._settle([shot for shot in shots if shot.sent_s], GRACE_S)

    async def run(self, times: np.ndarray, grace_s: float) -> list[Shot]:
        """Fire at all the times, whatever comes back."""
        loop, start_s = asyncio.get_running_loop(), perf_counter() + 0.05
        shots = [Shot(start_s + float(time)) for time in times]

        def pace() -> None:  # the loop's own timers are a millisecond coarse, a sleeping thread is not
            for shot in shots:
                sleep(max(0.0, shot.due_s - perf_counter()))
                loop.call_soon_threadsafe(self.fire, shot)

        pacer = threading.Thread(target=pace)
        pacer.start()
        await asyncio.to_thread(pacer.join)
        return await self._settle(shots, grace_s)

    async def _settle(self, shots: list[Shot], grace_s: float) -> list[Shot]:
        """Wait a while for what is still out, then hang up."""
        end_s = perf_counter() + grace_s
        while perf_counter() < end_s and not all(shot.status for shot in shots):
            await asyncio.sleep(0.02)
        self._backlog.clear()
        for line in list(self._lines):
            line.abort()
        await asyncio.sleep(0)
        return shots


def summarise(shots: Sequence[Shot], rate: float, seconds: float, cpu: float) -> Summary:
    """Count and rank what came back."""
    good = [shot.latency_ms for shot in shots if shot.right]
    rejected = [shot.latency_ms for shot in shots if shot.status in REJECTIONS]
    late = [1e3 * (shot.fired_s - shot.due_s) for shot in shots]
    # Answers after the end of the offered load are late for the rate, though not for their askers.
    end_s = shots[0].due_s + seconds if shots else 0.0
    return Summary(
        offered_per_s=rate,
        sent=len(shots),
        good=len(good),
        rejected=len(rejected),
        rejected_as={str(status): count for status in REJECTIONS if (count := sum(s.status == status for s in shots))},
        told_when=sum(shot.status in REJECTIONS and shot.told_when for shot in shots),
        wrong=sum(shot.status == 200 and not shot.right for shot in shots),
        failed=sum(shot.status not in (200, UNANSWERED, *REJECTIONS) for shot in shots),
        unanswered=sum(shot.status == UNANSWERED for shot in shots),
        goodput_per_s=sum(shot.right and shot.done_s <= end_s for shot in shots) / seconds,
        p50_ms=percentile(good, 0.5),
        p90_ms=percentile(good, 0.9),
        p99_ms=percentile(good, 0.99),
        p999_ms=percentile(good, 0.999),
        worst_ms=max(good, default=None),
        rejected_p50_ms=percentile(rejected, 0.5),
        generator_cpu=cpu,
        generator_late_p99_ms=float(np.quantile(late, 0.99)) if late else 0.0,
    )


def fire(generator: Generator, rate: float, seconds: float, *, seed: int = 0, grace_s: float = GRACE_S) -> Summary:
    """Offer one rate for a while.

    Raises:
        ValueError: a rate or a time out of range: loops here are bounded.
    """
    if not 0 < rate <= LARGEST_RATE or not 0 < seconds <= LONGEST_S:
        raise ValueError(f"rate, seconds: wanted at most {LARGEST_RATE:g} and {LONGEST_S:g}, got {rate:g}, {seconds:g}")
    before, start_s = _cpu_s(), perf_counter()
    shots = uvloop.run(generator.run(arrivals(rate, seconds, seed), grace_s))
    return summarise(shots, rate, seconds, (_cpu_s() - before) / (perf_counter() - start_s))


def saturate(generator: Generator, clients: int, seconds: float) -> Summary:
    """Keep so many requests out for a while; the goodput is what the service can do.

    Raises:
        ValueError: a number or a time out of range: loops here are bounded.
    """
    if not 0 < clients <= MOST_CONNECTIONS or not 0 < seconds <= LONGEST_S:
        raise ValueError(
            f"clients, seconds: wanted at most {MOST_CONNECTIONS}, {LONGEST_S:g}, got {clients}, {seconds:g}"
        )
    before, start_s = _cpu_s(), perf_counter()
    shots = uvloop.run(generator.run_closed(clients, seconds))
    cpu = (_cpu_s() - before) / (perf_counter() - start_s)
    return summarise(shots, len(shots) / seconds, seconds, cpu)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Offer one rate and print its summary as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True, help="on loopback, with the query")
    parser.add_argument("--body", type=Path, required=True, help=".npy file to POST")
    parser.add_argument("--expect", type=Path, required=True, help="file with the right answer")
    load = parser.add_mutually_exclusive_group(required=True)
    load.add_argument("--rate", type=float, help="requests a second, at times of their own")
    load.add_argument("--closed", type=int, metavar="CLIENTS", help="instead, keep so many requests out")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long")
    parser.add_argument("--grace", type=float, default=GRACE_S, help="seconds to wait for the last answers")
    parser.add_argument("--connections", type=int, default=128, help="at most so many at once")
    parser.add_argument("--header", action="append", default=[], help="a header line to add, such as a key")
    parser.add_argument("--seed", type=int, default=0, help="of the times")
    given = parser.parse_args()
    generator = Generator(
        given.url, given.body.read_bytes(), given.expect.read_bytes(), given.connections, given.header
    )
    if given.closed:
        summary = saturate(generator, given.closed, given.seconds)
    else:
        summary = fire(generator, given.rate, given.seconds, seed=given.seed, grace_s=given.grace)
    print(json.dumps(asdict(summary)))


if __name__ == "__main__":
    main()
