"""Measure what a tensor's way over HTTP costs: the service against an echo of the same body, and shared memory.

Usage: python loadtests/transport.py [--shape 4096 8192] [--rounds 7] [--ray]

The service and three forms of `echo.py` run on the same uvicorn settings, each in a process of its own on this machine.
All kinds of request are made in turn, so that a neighbour's load falls on all of them alike; each figure is a median
over the rounds, beside the least and the largest. The client is a bare socket with a buffer of its own, touched before.
Every projection is compared with the library's, bit for bit.
"""

import argparse
import io
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from time import perf_counter
from urllib.parse import urlsplit

import numpy as np
from rich.console import Console
from rich.table import Table
from safetensors.numpy import load
from tools.service import running

import normtree_kernels as nk
from normtree.compact import expand
from normtree.processes.ending import ending_with_us
from normtree.processes.starting import free_port

NORM, SPARSITY = "l1,linf", 0.9
ECHOES = ("stock", "ours", "kept")
KEY = "tensor-transport"
START_S = 30
QUERY = f"norm={NORM}&sparsity={SPARSITY}"
NPY = "Content-Type: application/x-npy"


class Line:
    """One connection, kept; it reads answers into one buffer."""

    def __init__(self, place: str, capacity: int) -> None:
        host, _, port = place.rpartition(":")
        self._place = place
        self._socket = socket.create_connection((host, int(port)), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = memoryview(bytearray(capacity))

    def ask(self, path: str, body: bytes | memoryview, *headers: str) -> tuple[float, dict[str, str], memoryview]:
        """Send a request and read its answer; return milliseconds, headers and body (valid until the next)."""
        lines = [f"POST {path} HTTP/1.1", f"Host: {self._place}", f"Content-Length: {len(body)}", *headers]
        start = perf_counter()
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode())
        self._socket.sendall(body)
        have, end = 0, -1
        while end < 0:
            have += self._read(have)
            end = bytes(self._buffer[: min(have, 2**16)]).find(b"\r\n\r\n")
        first, *rest = bytes(self._buffer[:end]).decode("latin-1").split("\r\n")
        found = {name.lower(): value for name, _, value in (line.partition(": ") for line in rest)}
        whole = end + 4 + int(found["content-length"])
        while have < whole:
            have += self._read(have)
        took = 1e3 * (perf_counter() - start)
        answer = self._buffer[end + 4 : whole]
        if first.split()[1] != "200":
            raise RuntimeError(f"{path}: {first}: {bytes(answer[:500])!r}")
        return took, found, answer

    def close(self) -> None:
        self._socket.close()

    def _read(self, at: int) -> int:
        count = self._socket.recv_into(self._buffer[at:])
        if not count:
            raise ConnectionError("hung up")
        return count


@contextmanager
def echoing(kind: str) -> Iterator[str]:
    """Run the echo in a process of its own."""
    port = free_port()
    command = [sys.executable, str(Path(__file__).parent / "tools" / "echo.py"), str(port), kind]
    process = subprocess.Popen(ending_with_us(command))
    try:
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.1)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


class Course:
    """The kinds of request, each a method that makes one and returns its milliseconds."""

    def __init__(self, echoes: list[Line], service: Line, y: np.ndarray, memory: SharedMemory) -> None:
        self._echoes, self._service = dict(zip(ECHOES, echoes, strict=True)), service
        assert memory.buf is not None
        self._shared = memory.buf
        self._y, self._x = y, nk.project(y, NORM, sparsity=SPARSITY)
        body = io.BytesIO()
        np.save(body, y)
        self._body = body.getbuffer()
        self.walls: dict[str, list[float]] = {"dense": [], "shared memory": []}
        self.stages: dict[str, list[dict[str, float]]] = {"dense": [], "compact": []}

    def register(self) -> None:
        wanted = {"key": f"/{KEY}", "byte_size": 2 * self._y.nbytes}
        self._service.ask("/v2/systemsharedmemory/region/r/register", json.dumps(wanted).encode())
        np.frombuffer(self._shared, self._y.dtype, self._y.size)[:] = self._y.reshape(-1)

    def echo(self, kind: str) -> float:
        took, _, answer = self._echoes[kind].ask("/", self._body, NPY)
        assert answer == self._body
        return took

    def dense(self) -> float:
        took, headers, answer = self._service.ask(f"/v1/project?{QUERY}", self._body, NPY)
        self._note("dense", headers)
        x = np.frombuffer(answer[-self._x.nbytes :], self._x.dtype).reshape(self._x.shape)
        assert x.tobytes() == self._x.tobytes()
        return took

    def compact(self) -> float:
        took, headers, answer = self._service.ask(f"/v1/project?{QUERY}&output=compact", self._body, NPY)
        self._note("compact", headers)
        parts = load(bytes(answer))
        assert np.array_equal(expand(parts["index"], parts["values"], tuple(parts["shape"]), (0,)), self._x)
        return took

    def shared_memory(self) -> float:
        y = self._y
        there = {"shared_memory_region": "r", "shared_memory_byte_size": y.nbytes}
        asked = {
            "parameters": {"norm": NORM, "sparsity": SPARSITY},
            "inputs": [{"name": "y", "shape": y.shape, "datatype": "FP32", "parameters": there}],
            "outputs": [{"name": "x", "parameters": {**there, "shared_memory_offset": y.nbytes}}],
        }
        took, _, answer = self._service.ask("/v2/models/multilevel/infer", json.dumps(asked).encode())
        self.walls["shared memory"].append(json.loads(bytes(answer))["parameters"]["timing_wall_ms"])
        x = np.frombuffer(self._shared, y.dtype, y.size, y.nbytes)
        assert x.tobytes() == self._x.tobytes()
        return took

    def _note(self, kind: str, headers: dict[str, str]) -> None:
        timing = json.loads(headers["x-normtree-timing"])
        self.stages[kind].append(timing["stages_ms"])
        if kind in self.walls:
            self.walls[kind].append(timing["wall_ms"])


def measure(course: Course, rounds: int) -> dict[str, list[float]]:
    kinds: dict[str, Callable[[], float]] = {
        **{f"echo, {kind}": partial(course.echo, kind) for kind in ECHOES},
        "dense": course.dense,
        "compact": course.compact,
        "shared memory": course.shared_memory,
    }
    for run in kinds.values():
        run()
    for walls in course.walls.values():
        walls.clear()
    for stages in course.stages.values():
        stages.clear()
    taken: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind, run in kinds.items():
            taken[kind].append(run())
    return taken


def show(course: Course, taken: dict[str, list[float]], title: str) -> None:
    middle = {kind: statistics.median(times) for kind, times in taken.items()}
    table = Table("request", "median ms", "least", "largest", *(f"of {kind}" for kind in ECHOES), title=title)
    for kind, times in taken.items():
        shares = (f"{middle[kind] / middle[echo]:.2f}" for echo in (f"echo, {kind}" for kind in ECHOES))
        table.add_row(kind, *(f"{ms:.1f}" for ms in (middle[kind], min(times), max(times))), *shares)
    console = Console(width=110)
    console.print(table)
    wall = statistics.median(course.walls["shared memory"])
    console.print(
        f"shared memory: the engine's wall {wall:.1f} ms, the request {middle['shared memory'] / wall:.2f} of it"
    )
    for kind, stages in course.stages.items():
        parts = {stage: statistics.median(one[stage] for one in stages) for stage in stages[0]}
        console.print(f"{kind}: " + ", ".join(f"{stage} {ms:.1f}" for stage, ms in parts.items()) + " ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=2, default=[4096, 8192], help="of the float32 tensor")
    parser.add_argument("--rounds", type=int, default=7, help="times that each kind of request is made")
    parser.add_argument("--ray", action="store_true", help="with Ray's workers too; else on the service's threads")
    arguments = parser.parse_args()
    y = np.random.default_rng(0).standard_normal(arguments.shape, dtype=np.float32)
    settings = {"shared_memory": 1, "inline_only": int(not arguments.ray), "arena_bytes": 2**30}
    with ExitStack() as held:
        log = Path(held.enter_context(tempfile.TemporaryDirectory())) / "log.txt"
        service = held.enter_context(running(log, settings))
        places = [held.enter_context(echoing(kind)) for kind in ECHOES]
        memory = SharedMemory(KEY, create=True, size=2 * y.nbytes)
        held.callback(memory.unlink)
        lines = [Line(one, y.nbytes + 2**20) for one in (*places, urlsplit(service.url).netloc)]
        for line in lines:
            held.callback(line.close)
        *echoes, to_service = lines
        course = Course(echoes, to_service, y, memory)
        course.register()
        shown = "×".join(map(str, arguments.shape))
        show(course, measure(course, arguments.rounds), f"{shown} float32, {NORM}, sparsity {SPARSITY}")


if __name__ == "__main__":
    main()
