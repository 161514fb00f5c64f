"""Two nodes and a wire between them: moving the tree against shipping the tensor.

The tensor is sharded, half of it in each node's object store. Moving the tree is `normtree.on_ray.project`: every block
is projected where it is, and only norms and radii cross. Shipping the tensor fetches the other node's half, projects
all of it on this node with the library on all cores, and sends the half back. Blocks are new in every round, for Ray
keeps what it has fetched. Requests of a few tiny blocks, and one half as large again, tell what a request costs beside
its leaves; the simulation is made from those. Both nodes share one machine's cores and memory.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path
from threading import Timer
from time import monotonic, sleep
from typing import Any

from hosts.wire import Wire, wire
from normtree.processes.ending import ending_with_us

GBIT_S, ROUND_TRIPS_MS = (1.0, 10.0), (0.1, 1.0, 10.0)
STORE_BYTES, PORT = 1 << 30, 6379
ROUNDS = 5
CPUS = 4  # tasks at once on a node: more than cores, so that a phase's tasks need not wait for each other
START_S, DRIVE_S, STOP_S = 90, 560, 30
DRIVER = Path(__file__).with_name("nodes_driver.py")
ROOMS = Path(__file__).parents[1]  # what the driver imports from
RAY = Path(sys.executable).with_name("ray")


def measure(nbytes: int, quick: bool, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Run both ways over every wire.

    Args:
        nbytes: of the tensor, half of it on each node.
        quick: only the slowest and the fastest wire, fewer rounds.
        say: is told how far it is.
    """
    wires = list(product(GBIT_S, ROUND_TRIPS_MS))
    runs, probes, found = [], [], []
    with (
        tempfile.TemporaryDirectory(prefix="nt", dir="/tmp") as folder,
        wire() as made,
        cluster(made, Path(folder), cpus=CPUS),
        driver(made) as drive,
    ):
        for gbit_s, round_trip_ms in (wires[:1] + wires[-1:]) if quick else wires:
            say(f"{gbit_s:g} Gb/s, {round_trip_ms:g} ms")
            made.set(gbit_s, round_trip_ms)
            on = {"gbit_s": gbit_s, "delay_ms": round_trip_ms}
            found.append({"gbit_s": gbit_s, "round_trip_ms": round_trip_ms, "is": made.measure()})
            driven = drive(nbytes, 3 if quick else ROUNDS)
            runs += [{"link": f"{gbit_s:g} Gb/s", **on, "nodes": 2, **run} for run in driven["runs"]]
            probes += [{**on, **probe} for probe in driven["probes"]]
    method = __doc__.split("\n\n", 1)[1].replace("\n", " ").strip()
    return {"method": method, "wires": found, "runs": runs, "probes": probes}


@contextmanager
def cluster(made: Wire, folder: Path, cpus: int = 1) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """Start a Ray node on each host, with so many tasks at once, and end both."""
    started: list[subprocess.Popen[bytes]] = []
    folder.mkdir(exist_ok=True)
    try:
        for host, (name, where) in enumerate(zip(("a", "b"), _places(made), strict=True)):
            options = [
                *where, f"--node-ip-address={made.addresses[host]}", f"--num-cpus={cpus}",
                f"--resources={{\"{name}\": 1}}",
                f"--object-store-memory={STORE_BYTES}", "--disable-usage-stats", "--block",
                f"--temp-dir={folder / name}",
            ]  # fmt: skip
            with (folder / f"{name}.log").open("wb") as log:
                started.append(
                    subprocess.Popen(
                        ending_with_us(made.command(host, str(RAY), "start", *options)),
                        env=_environment(),
                        stdout=log,
                        stderr=log,
                    )
                )
            _wait_for_port(made)
        yield started
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def driver(made: Wire) -> Iterator[Callable[[int, int], dict[str, Any]]]:
    """Start the driver on the first host; what it gives measures the wire as it is, with so many bytes and rounds."""
    command = made.command(0, sys.executable, str(DRIVER), f"{made.addresses[0]}:{PORT}")
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=_environment()
        ) as process,
    ):
        late = Timer(DRIVE_S, process.kill)
        late.start()

        def drive(nbytes: int, rounds: int) -> dict[str, Any]:
            assert process.stdin
            assert process.stdout
            process.stdin.write(f"{nbytes} {rounds}\n")
            process.stdin.flush()
            for line in process.stdout:
                if line.startswith("{"):
                    found: dict[str, Any] = json.loads(line)
                    return found
            log.seek(0)
            raise RuntimeError(f"the driver ended, or took more than {DRIVE_S} s:\n{log.read()[-2000:]}")

        try:
            yield drive
        finally:
            late.cancel()
            with suppress(BrokenPipeError):
                process.communicate(timeout=STOP_S)


def _places(made: Wire) -> tuple[list[str], list[str]]:
    return ["--head", f"--port={PORT}", "--include-dashboard=false"], [f"--address={made.addresses[0]}:{PORT}"]


def _wait_for_port(made: Wire) -> None:
    """Wait until the head answers."""
    probe = f"import socket; socket.create_connection(({made.addresses[0]!r}, {PORT}), 1)"
    end_s = monotonic() + START_S
    while subprocess.run(
        made.command(0, sys.executable, "-c", probe), capture_output=True, check=False
    ).returncode:  # fmt: skip
        if monotonic() > end_s:
            raise TimeoutError(f"Ray did not start within {START_S} s")
        sleep(0.3)


def _environment() -> dict[str, str]:
    """The namespaces are closed to the outside: no token is needed between the two nodes."""
    own = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "NUMBA_NUM_THREADS": "1"}
    own["PYTHONPATH"] = os.pathsep.join([str(ROOMS), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, **own, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"}  # an embedded Ray of ours has it otherwise
