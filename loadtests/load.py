"""Load a service on this machine with projections, and print rates and latencies.

Usage: python loadtests/load.py [--requests 400] [--concurrency 1 2 4 8] [--shape 128 128]

Each client sends its next request when its last is answered (a closed loop), so the latencies are those of a service
that is never asked for more than it can do. Every answer is compared with the library's. Only a service that this
script starts on loopback is loaded, with a bounded number of requests.
"""

import argparse
import io
import statistics
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

import httpx
import numpy as np
from rich.console import Console
from rich.table import Table

import normtree_kernels as nk
from normtree.demo import free_port, serving, wait_until_ready

NORM, RADIUS_SHARE = "l1,linf", 0.1


class Load:
    """One tensor, its right answer, and the requests for it."""

    def __init__(self, url: str, shape: tuple[int, ...]) -> None:
        y = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        self._url = url
        self._radius = RADIUS_SHARE * nk.norm(y, NORM)
        self._body, self._answer = _npy(y), _npy(nk.project(y, NORM, self._radius))

    def run(self, requests: int) -> list[float]:
        """Send requests one after the other on one connection; return their latencies in milliseconds."""
        latencies = []
        with httpx.Client(base_url=self._url, timeout=60) as client:
            for _ in range(requests):
                start = perf_counter()
                answer = client.post(
                    "/v1/project",
                    params={"norm": NORM, "radius": repr(self._radius)},
                    content=self._body,
                    headers={"Content-Type": "application/x-npy"},
                )
                latencies.append(1e3 * (perf_counter() - start))
                answer.raise_for_status()
                if answer.content != self._answer:
                    raise ValueError("an answer differs from the library's")
        return latencies


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def measure(load: Load, concurrency: int, requests: int) -> tuple[float, list[float]]:
    """Run so many clients at once; return requests a second and all latencies in milliseconds."""
    start = perf_counter()
    with ThreadPoolExecutor(concurrency) as clients:
        parts = list(clients.map(load.run, [requests // concurrency] * concurrency))
    latencies = [latency for part in parts for latency in part]
    return len(latencies) / (perf_counter() - start), latencies


def main() -> None:
    """Start the service, load it, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=400, help="requests at each concurrency")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 2, 4, 8], help="clients at once")
    parser.add_argument("--shape", type=int, nargs="+", default=[128, 128], help="of the float32 tensor")
    arguments = parser.parse_args()
    console = Console(width=110)
    table = Table("clients", "requests/s", "p50 ms", "p90 ms", "p99 ms", title=f"{NORM} of {arguments.shape} float32")
    with serving(free_port()) as (url, process), httpx.Client(base_url=url) as client:
        wait_until_ready(client, process)
        load = Load(url, tuple(arguments.shape))
        load.run(20)
        for concurrency in arguments.concurrency:
            rate, latencies = measure(load, concurrency, max(arguments.requests, 2 * concurrency))
            cuts = statistics.quantiles(latencies, n=100)
            table.add_row(str(concurrency), f"{rate:.0f}", *(f"{cuts[p - 1]:.1f}" for p in (50, 90, 99)))
    console.print(table)


if __name__ == "__main__":
    main()
