"""Compare small requests with a bare FastAPI echo on the same uvicorn: what the service adds to FastAPI itself.

Usage: python loadtests/small.py [--rounds 5] [--requests 800] [--concurrency 8] [--rows 128 --columns 128]

Both servers run in processes of their own, on one loop, one parser and one core's worth of Python each. A closed loop
of keep-alive connections loads them in turn, and each round's p50 and rate are taken; the medians are compared. The
clients read answers without parsing them but for their lengths, so that the servers are what is measured.
"""

import argparse
import asyncio
import io
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter, sleep
from urllib.parse import urlsplit

import httpx
import numpy as np
import uvloop
from rich.console import Console
from rich.table import Table
from tools.service import running

import normtree_kernels as nk
from normtree.processes.ending import ending_with_us
from normtree.processes.starting import free_port

ECHO = """
import sys, uvicorn
from fastapi import FastAPI, Request, Response

app = FastAPI()

@app.post("/echo")
async def echo(request: Request) -> Response:
    return Response(await request.body(), media_type="application/octet-stream")

uvicorn.run(app, port=int(sys.argv[1]), loop="uvloop", http="httptools", access_log=False, log_level="warning")
"""
RADIUS_SHARE = 0.1


@contextmanager
def echoing(port: int) -> Iterator[str]:
    """Run the echo until the block ends."""
    process = subprocess.Popen(ending_with_us([sys.executable, "-c", ECHO, str(port)]))
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(100):
            try:
                httpx.post(f"{url}/echo", content=b"x").raise_for_status()
                break
            except httpx.TransportError:
                sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait()


async def one_client(url: str, request: bytes, requests: int, answer: bytes) -> list[float]:
    """Send requests one after the other on one connection; return their latencies in milliseconds."""
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port, limit=2**20)
    latencies = []
    for _ in range(requests):
        began = perf_counter()
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        body = await reader.readexactly(length)
        latencies.append(1e3 * (perf_counter() - began))
        if body != answer:
            raise ValueError(f"{url}: wrong answer: {head + body[:200]!r}")
    writer.close()
    return latencies


async def load(url: str, request: bytes, answer: bytes, concurrency: int, requests: int) -> tuple[float, float]:
    """Return the p50 in milliseconds and the requests a second of so many clients at once."""
    began = perf_counter()
    each = requests // concurrency
    parts = await asyncio.gather(*(one_client(url, request, each, answer) for _ in range(concurrency)))
    took_s = perf_counter() - began
    return statistics.median(ms for part in parts for ms in part), each * concurrency / took_s


def post(path: str, body: bytes) -> bytes:
    """Return a whole request."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-npy\r\n"
    return head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body


def npy(array: np.ndarray) -> bytes:
    """Return an array as a .npy."""
    body = io.BytesIO()
    np.save(body, array, allow_pickle=False)
    return body.getvalue()


def main() -> None:
    """Start both, load them in turn, print a table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=800, help="requests of a round to each server")
    parser.add_argument("--concurrency", type=int, default=8, help="clients at once")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--columns", type=int, default=128)
    given = parser.parse_args()
    y = np.random.default_rng(0).standard_normal((given.rows, given.columns), dtype=np.float32)
    radius = RADIUS_SHARE * nk.norm(y, "l1,linf")
    body, right = npy(y), npy(nk.project(y, "l1,linf", radius))
    os.environ.setdefault("NORMTREE_INLINE_ONLY", "true")
    with ExitStack() as held:
        url = held.enter_context(running(Path("/dev/stderr"))).url
        echo = held.enter_context(echoing(free_port()))
        sides = {
            "normtree": (url, post(f"/v1/project?norm=l1,linf&radius={radius!r}", body), right),
            "echo": (echo, post("/echo", body), body),
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
        for number in range(given.rounds + 1):
            for name, (where, request, answer) in sides.items():
                measured = uvloop.run(load(where, request, answer, given.concurrency, given.requests))
                if number:  # the first warms up
                    found[name].append(measured)
    show(found, f"{given.rows}×{given.columns} float32, {given.concurrency} clients, medians of {given.rounds} rounds")


def show(found: dict[str, list[tuple[float, float]]], title: str) -> None:
    """Print what was measured, with the spread of the rounds."""
    medians = {
        name: [statistics.median(column) for column in zip(*rounds, strict=True)] for name, rounds in found.items()
    }
    table = Table("server", "p50 ms", "spread", "requests/s", "spread", title=title)
    for name, rounds in found.items():
        p50s, rates = zip(*rounds, strict=True)
        table.add_row(
            name, f"{medians[name][0]:.2f}", f"{min(p50s):.2f}–{max(p50s):.2f}",
            f"{medians[name][1]:.0f}", f"{min(rates):.0f}–{max(rates):.0f}",
        )  # fmt: skip
    Console(width=100).print(table)
    p50, rate = (medians["normtree"][i] / medians["echo"][i] for i in (0, 1))
    print(json.dumps({"p50_ratio": round(p50, 3), "rate_ratio": round(rate, 3)}))


if __name__ == "__main__":
    main()
