"""The generator keeps its times whatever the service does, and charges a stall to everybody it would have hit."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from traffic.openloop import Generator, Shot, arrivals, check_local, fire, percentile, saturate, summarise

RIGHT = b"right"


class Server:
    """A real HTTP server on loopback that answers one request after the other, at times that the test chooses."""

    def __init__(self, stall_s: float = 0.0, stall_at: int = -1, status: str = "200 OK", body: bytes = RIGHT) -> None:
        self._stall_s, self._stall_at = stall_s, stall_at
        self._answer = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        self.served = 0
        self._writers: list[asyncio.StreamWriter] = []

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(4)
                async with self._turn:
                    self.served += 1
                    if self.served == self._stall_at:
                        await asyncio.sleep(self._stall_s)
                writer.write(self._answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.transport.abort()

    async def serve(self, started: threading.Event) -> None:
        self._turn, self._stop = asyncio.Lock(), asyncio.Event()
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self.talk, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/?a=b"
        started.set()
        async with server:
            await self._stop.wait()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0.05)

    @contextmanager
    def running(self) -> Iterator[str]:
        started = threading.Event()
        thread = threading.Thread(target=lambda: asyncio.run(self.serve(started)))
        thread.start()
        started.wait(10)
        try:
            yield self.url
        finally:
            self._loop.call_soon_threadsafe(self._stop.set)
            thread.join()


def test_arrivals_are_poisson_and_the_same_again() -> None:
    times = arrivals(1000, 20, seed=3)
    assert np.array_equal(times, arrivals(1000, 20, seed=3))
    assert len(times) == pytest.approx(20_000, rel=0.05)
    gaps = np.diff(times)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)


def test_every_answer_of_a_calm_service_is_good() -> None:
    with Server().running() as url:
        summary = fire(Generator(url, b"body", RIGHT), 200, 1.5)
    assert summary.good == summary.sent > 200
    assert (summary.wrong, summary.failed, summary.unanswered, summary.rejected) == (0, 0, 0, 0)
    assert 0 < summary.goodput_per_s <= summary.good / 1.5
    assert summary.p50_ms is not None
    assert summary.worst_ms is not None
    assert 0 < summary.p50_ms <= summary.worst_ms
    assert summary.p999_ms is None  # 300 requests cannot tell


def test_a_stall_is_charged_to_all_who_were_due() -> None:
    with Server(stall_s=0.5, stall_at=100).running() as url:
        summary = fire(Generator(url, b"body", RIGHT, connections=1), 200, 1.5)
    assert summary.good == summary.sent
    # A third of the requests were due in the stall; a closed loop would have seen one slow answer.
    assert summary.p90_ms is not None
    assert summary.p90_ms > 150
    assert summary.worst_ms is not None
    assert summary.worst_ms > 400


def test_saturating_finds_what_a_service_can_do() -> None:
    with Server(stall_s=0.3, stall_at=1).running() as url:
        summary = saturate(Generator(url, b"body", RIGHT), clients=2, seconds=0.8)
    assert summary.good == summary.sent
    assert summary.unanswered == 0
    assert 0 < summary.goodput_per_s <= summary.good / 0.8


@pytest.mark.parametrize(
    ("server", "field"),
    [
        (Server(body=b"wrong"), "wrong"),
        (Server(status="503 Service Unavailable"), "rejected"),
        (Server(status="429 Too Many Requests"), "rejected"),
        (Server(status="500 Internal Server Error"), "failed"),
    ],
)
def test_other_answers_are_counted_apart(server: Server, field: str) -> None:
    with server.running() as url:
        summary = fire(Generator(url, b"body", RIGHT), 100, 0.5)
    assert getattr(summary, field) == summary.sent > 10
    assert summary.good == 0
    assert summary.goodput_per_s == 0


def test_rejections_that_say_when_to_come_again_are_counted() -> None:
    with Server(status="429 Too Many Requests\r\nRetry-After: 1").running() as url:
        summary = fire(Generator(url, b"body", RIGHT), 100, 0.3)
    assert summary.rejected_as == {"429": summary.sent}
    assert summary.told_when == summary.sent > 5


def test_no_answer_is_counted_and_waiting_ends() -> None:
    with Server(stall_s=120, stall_at=1).running() as url:
        summary = fire(Generator(url, b"body", RIGHT), 50, 0.4, grace_s=0.3)
    assert summary.unanswered == summary.sent > 5


def test_nobody_listens() -> None:
    with Server().running() as url:
        pass
    summary = fire(Generator(url, b"body", RIGHT), 50, 0.4)
    assert summary.failed == summary.sent > 5


def test_percentiles_rest_on_ten_values() -> None:
    assert percentile([1.0] * 19, 0.5) is None
    assert percentile([1.0] * 20, 0.5) == 1.0
    assert percentile([1.0] * 999, 0.99) is None


def test_goodput_leaves_out_what_came_after_the_end() -> None:
    shots = [Shot(0.0, 0.0, 0.0, done_s, 200, right=True) for done_s in (0.5, 0.9, 1.5)]
    assert summarise(shots, 3, 1.0, 0.0).goodput_per_s == 2


@pytest.mark.parametrize(("rate", "seconds"), [(0, 1), (1e6, 1), (10, 1e4), (10, 0)])
def test_rates_and_times_are_bounded(rate: float, seconds: float) -> None:
    with pytest.raises(ValueError, match="rate, seconds"):
        fire(Generator("http://127.0.0.1:1/", b"", b""), rate, seconds)


@pytest.mark.parametrize("host", ["10.0.0.1", "192.0.2.7", "::2"])
def test_other_machines_are_refused(host: str) -> None:
    with pytest.raises(ValueError, match="loopback"):
        check_local(host)
