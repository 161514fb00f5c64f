"""Load normtree on this machine: speed-up curves, latency under load, faults, a soak; figures, pictures, one page.

Usage: python loadtests/load.py [PART ...] [--quick] [--minutes 30] [--out loadtests/results]

Parts are run in the order given; none means all of them. Each writes its figures as JSON (and CSV), and every picture
and report.html are drawn again from all the figures there are. `page` draws without measuring. Only what is started
here is loaded, on loopback or in network namespaces made here; every loop is bounded in number or in time.
"""

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

import chaos
import curves
import latency
import nodes
import page
import simulation
import soak
import storage
import user_flows
import wire
from machine import describe
from results import CSV_FIELDS, FOLDER, csv_text, read_json, write, write_json
from rich.console import Console
from service import running

from normtree.engine.projector import Projector
from normtree.settings import Settings

MIB = 2**20
WEAK_BYTES = (16 * MIB, 256 * MIB)


@dataclass(frozen=True)
class Run:
    """What all parts are told.

    Args:
        out: folder of the results.
        quick: smaller and shorter, to see that all works.
        minutes: of the soak.
        largest_bytes: tensor of the speed-up curves.
    """

    out: Path
    quick: bool
    minutes: float
    largest_bytes: int


def run_curves(run: Run) -> None:
    """Speed-up against workers, size and norm, on threads and on Ray."""
    largest, weak = run.largest_bytes, WEAK_BYTES
    if run.quick:
        largest, weak = min(largest, 64 * MIB), WEAK_BYTES[:1]
    settings = Settings(arena_bytes=curves.needed_bytes(largest, weak, Settings().workers))
    about = describe("kernels compiled, segments touched, two rounds of every case")
    with Projector.start(settings) as projector:
        points = curves.measure(projector, largest, weak, budget_s=0.3 if run.quick else 1.0)
        profile = projector.profile.as_dict()
    plain = {
        "machine": about,
        "profile": profile,
        "fits": [asdict(curve) for curve in curves.curves(points)],
        "points": [point.as_dict() for point in points],
    }
    write_json(run.out / "curves.json", plain)
    write(run.out / "curves.csv", csv_text([point.row() for point in points], CSV_FIELDS))


def run_latency(run: Run) -> None:
    """Latency, goodput and rejections against offered rate."""
    about = describe("a second of four requests at once")
    with tempfile.TemporaryDirectory() as folder, running(Path(folder, "log.txt")) as service:
        shares = (0.25, 0.5, 0.8, 1.0, 1.5, 3.0) if run.quick else latency.SHARES
        found = latency.measure(service, seconds=2 if run.quick else 5, shares=shares)
    write_json(run.out / "latency.json", {"machine": about, "curves": found})
    rows = [{"name": curve["name"], **rate} for curve in found for rate in curve["rates"]]
    write(run.out / "latency.csv", csv_text(rows, list(rows[0])))


def run_users(run: Run) -> None:
    """User flows under Locust."""
    about = describe("none: users come at once")
    with tempfile.TemporaryDirectory() as folder, running(Path(folder, "log.txt")) as service:
        found = user_flows.measure(service, users=8, seconds=8 if run.quick else 30)
    write_json(run.out / "users.json", {"machine": about, **found})


def run_nodes(run: Run) -> None:
    """Two nodes with a wire of a set rate and delay between them."""
    if lacks := wire.missing():
        print(f"nodes: skipped, {lacks}")
        return
    about = describe("a round of each way on every wire")
    found = nodes.measure(nbytes=64 * MIB, quick=run.quick)
    write_json(run.out / "nodes.json", {"machine": about, **found})


def run_simulation(run: Run) -> None:
    """The cost model beyond this machine, from the figures of the curves and the nodes."""
    measured = read_json(run.out / "curves.json")
    if not measured:
        print("simulation: skipped, it needs the curves first")
        return
    rates = storage.measure(run.out, nbytes=(128 if run.quick else 1024) * MIB)
    found = simulation.of_results(measured, read_json(run.out / "nodes.json"), rates)
    write_json(run.out / "simulation.json", {"machine": measured["machine"], **found})
    write(run.out / "simulation.csv", csv_text(found["scales"], list(found["scales"][0])))


def run_chaos(run: Run) -> None:
    """Faults while a mixed load runs."""
    about = describe("a second of mixed load")
    write_json(run.out / "chaos.json", {"machine": about, "faults": chaos.measure(4 if run.quick else 10)})


def run_soak(run: Run) -> None:
    """A mixed load while memory, segments and descriptors are watched."""
    about = describe("the first fifth of the run")
    with tempfile.TemporaryDirectory() as folder, running(Path(folder, "log.txt")) as service:
        found = soak.soak(service, Path(folder, "jobs"), 30 if run.quick else 60 * run.minutes)
    write_json(run.out / "soak.json", {"machine": about, **found})


PARTS: Mapping[str, Callable[[Run], None]] = {
    "curves": run_curves,
    "latency": run_latency,
    "users": run_users,
    "nodes": run_nodes,
    "simulation": run_simulation,
    "chaos": run_chaos,
    "soak": run_soak,
}


def main() -> None:
    """Run the parts, then draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}, page; default: all")
    parser.add_argument("--quick", action="store_true", help="smaller and shorter, to see that all works")
    parser.add_argument("--minutes", type=float, default=30.0, help="of the soak, at most 600")
    parser.add_argument("--largest-mib", type=int, default=2048, help="largest tensor of the speed-up curves")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the results")
    given = parser.parse_args()
    unknown = [name for name in given.parts if name not in (*PARTS, "page")]
    if unknown or not 0 < given.minutes <= 600:
        parser.error(f"parts: wanted some of {', '.join(PARTS)}, page, got {unknown}; minutes: {given.minutes}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started here ends with this
    run = Run(given.out, given.quick, given.minutes, given.largest_mib * MIB)
    console = Console()
    for name in given.parts or PARTS:
        start = perf_counter()
        if name in PARTS:
            PARTS[name](run)
        console.print(f"{name}: {perf_counter() - start:.0f} s", highlight=False)
    console.print(f"drawn: {page.make(run.out)}", highlight=False)


if __name__ == "__main__":
    main()
