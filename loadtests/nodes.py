"""Two nodes and a wire between them: moving the tree against shipping the tensor.

The tensor is sharded, half of it in each node's object store. Moving the tree projects every block where it is, and
only norms and radii cross. Shipping the tensor fetches the other node's half, projects all of it on this node with the
library on all cores, and sends the half back. Blocks are new in every round, for Ray keeps what it has fetched.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from wire import Wire, wire

GBIT_S, ROUND_TRIPS_MS = (1.0, 10.0), (0.1, 1.0, 10.0)
STORE_BYTES, PORT = 1 << 30, 6379
ROUNDS = 5
START_S, DRIVE_S = 90, 240
DRIVER = Path(__file__).with_name("nodes_driver.py")
RAY = Path(sys.executable).with_name("ray")


def measure(nbytes: int, quick: bool) -> dict[str, Any]:
    """Run both ways over every wire.

    Args:
        nbytes: of the tensor, half of it on each node.
        quick: only the slowest and the fastest wire, fewer rounds.
    """
    wires = list(product(GBIT_S, ROUND_TRIPS_MS))
    runs, found = [], []
    with tempfile.TemporaryDirectory(prefix="nt", dir="/tmp") as folder, wire() as made, cluster(made, Path(folder)):
        for gbit_s, round_trip_ms in (wires[:1] + wires[-1:]) if quick else wires:
            made.set(gbit_s, round_trip_ms)
            is_ = made.measure()
            found.append({"gbit_s": gbit_s, "round_trip_ms": round_trip_ms, "is": is_})
            for run in drive(made, nbytes, 3 if quick else ROUNDS):
                runs.append(
                    {"link": f"{gbit_s:g} Gb/s", "gbit_s": gbit_s, "delay_ms": round_trip_ms, "nodes": 2, **run}
                )
    return {"method": __doc__.split("\n\n", 1)[1].replace("\n", " "), "wires": found, "runs": runs}


@contextmanager
def cluster(made: Wire, folder: Path) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """Start a Ray node on each host, and end both."""
    started: list[subprocess.Popen[bytes]] = []
    folder.mkdir(exist_ok=True)
    try:
        for host, (name, where) in enumerate(zip(("a", "b"), _places(made), strict=True)):
            options = [
                *where, f"--node-ip-address={made.addresses[host]}", "--num-cpus=1", f"--resources={{\"{name}\": 1}}",
                f"--object-store-memory={STORE_BYTES}", "--disable-usage-stats", "--block",
                f"--temp-dir={folder / name}",
            ]  # fmt: skip
            with (folder / f"{name}.log").open("wb") as log:
                started.append(
                    subprocess.Popen(
                        made.command(host, str(RAY), "start", *options), env=_environment(), stdout=log, stderr=log
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


def drive(made: Wire, nbytes: int, rounds: int) -> Sequence[dict[str, Any]]:
    """Run the driver on the first host, and read what it measured."""
    command = made.command(0, sys.executable, str(DRIVER), f"{made.addresses[0]}:{PORT}", str(nbytes), str(rounds))
    done = subprocess.run(
        command, capture_output=True, text=True, env=_environment(), timeout=DRIVE_S, check=False
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"the driver failed:\n{done.stderr[-2000:]}")
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


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
    return {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "NUMBA_NUM_THREADS": "1"}
