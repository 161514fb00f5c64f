"""Time the kernels against the floor and against others, all in one run, and write a table and a picture.

Usage: python loadtests/bench.py [--quick] [--out loadtests/results]

The floor is what any out-of-place projection pays: the tensor read once, then read again and written, by plain
compiled loops. Contenders take turns, round after round after a warm-up, so that a slow spell of a shared machine
falls on all of them, and before each one's turn the caches are filled with something else, so that none pays for what
the one before has left to be written back; a contender's time is the median of its rounds, its spread the middle half
of them, and ratios are medians of the rounds' own ratios.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from speed import contenders

import normtree_kernels as nk

ROUNDS, QUICK_ROUNDS = 7, 3
RADIUS_SHARE = 0.1
MIB = 2**20
RINSE_BYTES = 128 * MIB  # more than the caches hold


@dataclass(frozen=True)
class Figure:
    """One figure: what was measured, beside what is wanted of it."""

    name: str
    wanted: str
    measured: float
    met: bool


@dataclass(frozen=True)
class Row:
    """One contender's time on one case, in milliseconds."""

    case: str
    contender: str
    median_ms: float
    lower_ms: float
    upper_ms: float


class Bench:
    """Runs cases, and keeps their rows and figures."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        self.rows: list[Row] = []
        self.figures: list[Figure] = []

    def race(self, case: str, runs: Mapping[str, Callable[[], object]]) -> dict[str, list[float]]:
        """Run contenders in turn, and return each one's times in milliseconds, round by round."""
        times: dict[str, list[float]] = {name: [] for name in runs}
        other = np.ones(RINSE_BYTES, np.uint8)
        for round_ in range(self.rounds + 2):
            for name, run in runs.items():
                other.max()
                start = perf_counter()
                run()
                if round_ > 1:
                    times[name].append(1e3 * (perf_counter() - start))
        for name, taken in times.items():
            lower, median, upper = statistics.quantiles(taken, n=4)
            self.rows.append(Row(case, name, median, lower, upper))
        return times

    def at_most(self, name: str, limit: float, measured: float) -> None:
        """Note a figure that is wanted small."""
        self.figures.append(Figure(name, f"<= {limit:g}", measured, measured <= limit))

    def at_least(self, name: str, limit: float, measured: float) -> None:
        """Note a figure that is wanted large."""
        self.figures.append(Figure(name, f">= {limit:g}", measured, measured >= limit))


def ratio(over: list[float], under: list[float]) -> float:
    """Median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def noise(shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32).astype(dtype)


def ours(y: np.ndarray, norm: str, axes: str, out: np.ndarray, **options: Any) -> Callable[[], object]:
    radius = RADIUS_SHARE * nk.norm(y, norm, axes=axes)
    return lambda: nk.project(y, norm, radius, axes=axes, out=out, **options)


def bench_norms(bench: Bench, shape: tuple[int, int]) -> None:
    """Every norm in both layouts against the floor, NumPy and whoever else is installed; one and two threads."""
    y, out = noise(shape), np.empty(shape, np.float32)
    limits = {"l1,linf": 1.15, "l1,l2": 1.3, "l1,l1": 4.0}
    for norm, limit in limits.items():
        for axes in ("0,1", "1,0"):
            case = f"{norm} {'×'.join(map(str, shape))} groups={'rows' if axes == '0,1' else 'columns'}"
            radius = RADIUS_SHARE * nk.norm(y, norm, axes=axes)
            others = contenders.available(y, norm, axes, radius)
            runs = {
                "floor": lambda: contenders.floor(y, out),
                "normtree": ours(y, norm, axes, out),
                "normtree, 2 threads": ours(y, norm, axes, out, threads=2),
                **others,
            }
            times = bench.race(case, runs)
            bench.at_most(f"{case}: time / floor", limit, ratio(times["normtree"], times["floor"]))
            bench.at_least(f"{case}: 1 / 2 threads", 1.7, ratio(times["normtree"], times["normtree, 2 threads"]))
            if norm == "l1,linf":
                bench.at_least(f"{case}: NumPy / ours", 3.0, ratio(times["NumPy"], times["normtree"]))


def bench_memory(bench: Bench, shape: tuple[int, int]) -> None:
    """The floor itself on one and two threads: no kernel that moves as many bytes gains more from a second one."""
    y, out = noise(shape), np.empty(shape, np.float32)
    case = f"floor {'×'.join(map(str, shape))} by threads"
    with ThreadPoolExecutor(2) as pool:
        runs = {f"{n} threads": contenders.memory(y, out, pool, n) for n in (1, 2)}
        times = bench.race(case, runs)
    bench.at_least(f"{case}: 1 / 2 threads", 1.7, ratio(times["1 threads"], times["2 threads"]))


def bench_exact(bench: Bench) -> None:
    """The exact l1,linf projection against the NumPy one-liner of the bi-level one."""
    y = noise((1000, 10000))
    out = np.empty_like(y)
    for axes in ("0,1", "1,0"):
        case = f"exact l1,linf 1000×10000 groups={'rows' if axes == '0,1' else 'columns'}"
        radius = RADIUS_SHARE * nk.norm(y, "l1,linf", axes=axes)
        numpy_run = contenders.available(y, "l1,linf", axes, radius)["NumPy"]
        times = bench.race(
            case, {"NumPy, bi-level": numpy_run, "normtree, exact": ours(y, "l1,linf", axes, out, exact=True)}
        )
        bench.at_most(
            f"{case}: time / NumPy's bi-level", 4.0, ratio(times["normtree, exact"], times["NumPy, bi-level"])
        )


def bench_halves(bench: Bench) -> None:
    """Half precision against float32, the same number of elements."""
    for norm in ("l1,linf", "l1,l2", "l1,l1"):
        runs = {}
        for dtype in ("float32", "float16", "bfloat16"):
            y = noise((4096, 8192), dtype)
            runs[dtype] = ours(y, norm, "0,1", np.empty_like(y))
        times = bench.race(f"{norm} 4096×8192 by dtype", runs)
        for dtype in ("float16", "bfloat16"):
            bench.at_most(f"{norm}: {dtype} / float32", 1.0, ratio(times[dtype], times["float32"]))


def bench_sizes(bench: Bench, largest_bytes: int) -> None:
    """Time per byte, from 64 MiB up."""
    for norm in ("l1,linf", "l1,l2", "l1,l1"):
        sizes = [64 * MIB]
        while sizes[-1] * 4 <= largest_bytes:
            sizes.append(sizes[-1] * 4)
        sizes = sorted({*sizes, largest_bytes})
        y, out = noise((largest_bytes // 4 // 8192, 8192)), np.empty((largest_bytes // 4 // 8192, 8192), np.float32)
        runs = {f"{size // MIB} MiB": ours(y[: size // 32768], norm, "0,1", out[: size // 32768]) for size in sizes}
        times = bench.race(f"{norm} float32 by size", runs)
        per_byte = [statistics.median(times[f"{size // MIB} MiB"]) / size for size in sizes]
        bench.at_most(f"{norm}: time per byte, worst / best of {len(sizes)} sizes", 1.3, max(per_byte) / min(per_byte))


def bench_start(bench: Bench) -> None:
    """A fresh process: the import, and the first call with a warm cache."""
    code = (
        "from time import perf_counter as t; a = t(); import normtree_kernels as nk; b = t(); import numpy as np; "
        "y = np.ones((64, 64), np.float32); c = t(); nk.project(y, 'l1,linf', 1.0); print(b - a, t() - c)"
    )
    taken = []
    for _ in range(bench.rounds + 1):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        taken.append([float(part) for part in done.stdout.split()])
    imports, calls = (statistics.median(column) for column in zip(*taken[1:], strict=True))
    bench.at_most("import normtree_kernels, s", 0.7, imports)
    bench.at_most("first call in a fresh process, warm cache, s", 1.0, calls)


def machine() -> dict[str, object]:
    """What the numbers depend on."""
    names = ("numpy", "numba", "llvmlite")
    processor = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    return {
        "processor": processor,
        "python": platform.python_version(),
        **{name: version(name) for name in names},
        "others": contenders.versions(),
        "load_average": Path("/proc/loadavg").read_text().split()[:3],
    }


def write(bench: Bench, folder: Path, about: Mapping[str, object]) -> None:
    """Write JSON, a Markdown table and a picture, each beside and then into place."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = {
        "machine": about,
        "rounds": bench.rounds,
        "figures": [asdict(figure) for figure in bench.figures],
        "rows": [asdict(row) for row in bench.rows],
    }
    lines = ["# Kernels", "", *(f"- {key}: {value}" for key, value in about.items()), f"- rounds: {bench.rounds}", ""]
    lines += ["| figure | wanted | measured | |", "| --- | --- | --- | --- |"]
    lines += [f"| {f.name} | {f.wanted} | {f.measured:.2f} | {'' if f.met else 'missed'} |" for f in bench.figures]
    lines += ["", "| case | contender | median ms | middle half |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {r.case} | {r.contender} | {r.median_ms:.1f} | {r.lower_ms:.1f} to {r.upper_ms:.1f} |" for r in bench.rows
    ]
    lost = losses(bench)
    lines += ["", "## Where we lose", "", *(lost or ["Nowhere in this run."]), "", "![times](kernels.svg)", ""]
    for name, text in (("kernels.json", json.dumps(plain, indent=1)), ("kernels.md", "\n".join(lines))):
        with tempfile.NamedTemporaryFile("w", dir=folder, delete=False) as beside:
            beside.write(text)
        Path(beside.name).chmod(0o644)
        Path(beside.name).replace(folder / name)
    contenders.draw(bench.rows, folder / "kernels.svg")


def losses(bench: Bench) -> list[str]:
    """Name the contenders that are faster than ours on one thread."""
    found = []
    for case in dict.fromkeys(row.case for row in bench.rows):
        times = {row.contender: row.median_ms for row in bench.rows if row.case == case}
        if "normtree" in times:
            for name, median in times.items():
                if not name.startswith("normtree") and name != "floor" and median < times["normtree"]:
                    found.append(f"- {case}: {name} takes {median:.1f} ms, ours {times['normtree']:.1f} ms")
    return found


def main() -> None:
    """Run it all, print the figures, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and sizes up to 256 MiB only")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the results")
    arguments = parser.parse_args()
    console, about = Console(width=120), machine()
    bench = Bench(QUICK_ROUNDS if arguments.quick else ROUNDS)
    parts: list[tuple[str, Callable[[], object]]] = [
        ("norms, 4096×8192", lambda: bench_norms(bench, (4096, 8192))),
        ("norms, 1000×10000", lambda: bench_norms(bench, (1000, 10000))),
        ("memory, 4096×8192", lambda: bench_memory(bench, (4096, 8192))),
        ("memory, 1000×10000", lambda: bench_memory(bench, (1000, 10000))),
        ("exact", lambda: bench_exact(bench)),
        ("half precision", lambda: bench_halves(bench)),
        ("sizes", lambda: bench_sizes(bench, (256 if arguments.quick else 2048) * MIB)),
        ("start", lambda: bench_start(bench)),
    ]
    seen, begun = [0], perf_counter()
    for name, part in parts:
        console.print(f"{name} …")
        part()
        seen.append(len(bench.figures))
    about["duration_s"] = round(perf_counter() - begun)
    table = Table("figure", "wanted", "measured", "")
    for start, stop in pairwise(seen):
        for figure in bench.figures[start:stop]:
            table.add_row(figure.name, figure.wanted, f"{figure.measured:.2f}", "" if figure.met else "missed")
        table.add_section()
    console.print(table)
    for line in losses(bench):
        console.print(f"lost {line}", highlight=False)
    write(bench, arguments.out, about)
    console.print(f"took {about['duration_s']} s; written to {arguments.out}", highlight=False)


if __name__ == "__main__":
    main()
