"""Load normtree on this machine: speed-up curves, latency under load, faults, a soak; figures, pictures, one page.

Usage: python loadtests/load.py [PART ...] [--quick] [--minutes 30] [--out loadtests/results]

Parts are run in the order given; none means all of them. Each writes its figures as JSON (and CSV), and every picture
and report.html are drawn again from all the figures there are. `page` draws without measuring. A part that fails does
not keep the others from running; the exit status then tells. Only what is started here is loaded, on loopback or in
network namespaces made here; every loop is bounded in number or in time.
"""

import argparse
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter

import chaos
import predict
from drawings import page
from hosts import nodes, simulation, wire
from speed import curves
from tools import storage
from tools.machine import describe
from tools.progress import Progress
from tools.results import CSV_FIELDS, FOLDER, csv_text, read_json, write, write_json
from tools.service import Service, running
from traffic import latency, soak, user_flows

from normtree.engine.projector import Projector
from normtree.settings import Settings

MIB = 2**20
WEAK_BYTES: tuple[int, ...] = (16 * MIB, 256 * MIB)
CURVES_S = 420.0  # after so long no further size is begun


@dataclass(frozen=True)
class Run:
    """What all parts are told.

    Args:
        out: folder of the results.
        quick: smaller and shorter, to see that all works.
        minutes: of the soak.
        gentle: whether the soak is to leave the machine to others for the most part.
        largest_bytes: tensor of the speed-up curves.
        note: on the machine, for all results.
        say: is told of each step.
    """

    out: Path
    quick: bool
    minutes: float
    gentle: bool
    largest_bytes: int
    note: str
    say: Callable[[str], None]


@dataclass(frozen=True)
class Part:
    """One part of a run.

    Args:
        run: does it.
        quick_s: about how long it takes in its short form.
        full_s: and in its long form.
    """

    run: Callable[[Run], None]
    quick_s: float
    full_s: float

    def planned_s(self, run: Run) -> float:
        """About how long it will take."""
        if self.run is run_soak and not run.quick:
            return self.full_s + 60 * run.minutes
        return self.quick_s if run.quick else self.full_s


def run_curves(run: Run) -> None:
    """Speed-up against workers, size and norm, on threads and on Ray."""
    end_s = perf_counter() + CURVES_S
    largest, weak = run.largest_bytes, WEAK_BYTES
    if run.quick:
        largest, weak = min(largest, 64 * MIB), WEAK_BYTES[:1]
    settings = Settings(arena_bytes=curves.needed_bytes(largest, weak, Settings().workers))
    about = describe("kernels compiled, segments touched, two rounds of every case", run.note)
    run.say("measuring the machine")
    with Projector.start(settings) as projector:
        profile = projector.measure().as_dict()
        points = curves.measure(projector, largest, weak, 0.3 if run.quick else 1.5, end_s, run.say)
    plain = {
        "machine": about,
        "profile": profile,
        "fits": [asdict(curve) for curve in curves.curves(points)],
        "points": [point.as_dict() for point in points],
    }
    write_json(run.out / "curves.json", plain)
    write(run.out / "curves.csv", csv_text([point.row() for point in points], CSV_FIELDS))


def run_predict(run: Run) -> None:
    """How well plans foretell their walls, and whether ``auto`` takes the better engine."""
    about = describe(predict.WARM_UP, run.note)
    profile, cases = predict.measure((1 / 16, 1, 16) if run.quick else predict.SIZES_MIB, predict.BUDGET_S)
    predict.save(run.out, about, profile, cases)
    for line in predict.summary(cases):
        run.say(line.removeprefix("- "))


def run_latency(run: Run) -> None:
    """Latency, goodput and rejections against offered rate."""
    about = describe("a second of four requests at once", run.note)
    shares = (0.25, 0.5, 0.8, 1.0, 1.5, 3.0) if run.quick else latency.SHARES
    found = latency.measure(2 if run.quick else 5, shares, run.say)
    write_json(run.out / "latency.json", {"machine": about, "curves": found})
    rows = [{"name": curve["name"], **rate} for curve in found for rate in curve["rates"]]
    write(run.out / "latency.csv", csv_text(rows, list(rows[0])))


def run_users(run: Run) -> None:
    """User flows under Locust."""
    about = describe("none: users come at once", run.note)
    with jobs_service() as (service, folder):
        run.say("users come")
        found = user_flows.measure(service, folder, users=8, seconds=12 if run.quick else 40)
    write_json(run.out / "users.json", {"machine": about, **found})


def run_nodes(run: Run) -> None:
    """Two nodes with a wire of a set rate and delay between them."""
    if lacks := wire.missing():
        run.say(f"skipped, {lacks}")
        return
    about = describe("a round of each way on every wire", run.note)
    found = nodes.measure(nbytes=64 * MIB, quick=run.quick, say=run.say)
    write_json(run.out / "nodes.json", {"machine": about, **found})


def run_simulation(run: Run) -> None:
    """The cost model beyond this machine, from the figures of the curves and the nodes."""
    measured = read_json(run.out / "curves.json")
    if not measured:
        run.say("skipped, it needs the curves first")
        return
    run.say("measuring the storage")
    rates = storage.measure(run.out, nbytes=(128 if run.quick else 1024) * MIB)
    found = simulation.of_results(measured, read_json(run.out / "nodes.json"), rates)
    write_json(run.out / "simulation.json", {"machine": measured["machine"], **found})
    write(run.out / "simulation.csv", csv_text(found["scales"], list(found["scales"][0])))
    for row in found["validation"]:
        run.say(
            f"{row['against']}: off by {row['median']:.0%} at the median of {row['runs']}, {row['worst']:.0%} at worst"
        )


def run_chaos(run: Run) -> None:
    """Faults while a mixed load runs."""
    about = describe("a second of mixed load", run.note)
    faults = chaos.measure(4 if run.quick else 8, run.say)
    write_json(run.out / "chaos.json", {"machine": about, "faults": faults})


@contextmanager
def jobs_service() -> Iterator[tuple[Service, Path]]:
    """A service, and a folder that its jobs may use."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "files")
        folder.mkdir()
        with running(Path(name, "log.txt"), {"jobs_roots": folder}) as service:
            yield service, folder


def run_soak(run: Run) -> None:
    """A mixed load while memory, segments and descriptors are watched."""
    about = describe("the first fifth of the run", run.note)
    pace = soak.GENTLE if run.gentle else soak.Pace()
    with jobs_service() as (service, folder):
        run.say("loading")
        found = soak.soak(service, folder, 30 if run.quick else 60 * run.minutes, pace)
    write_json(run.out / "soak.json", {"machine": about, **found})


PARTS: Mapping[str, Part] = {
    "curves": Part(run_curves, 110, 480),
    "predict": Part(run_predict, 90, 120),
    "latency": Part(run_latency, 90, 350),
    "users": Part(run_users, 40, 70),
    "nodes": Part(run_nodes, 90, 240),
    "simulation": Part(run_simulation, 10, 40),
    "chaos": Part(run_chaos, 180, 240),
    "soak": Part(run_soak, 70, 50),
}


def run_all(names: list[str], run: Run, progress: Progress) -> list[str]:
    """Run parts one after the other; return the names of those that failed."""
    failed = []
    for name in names:
        progress.begin(name)
        try:
            PARTS[name].run(run)
        except Exception as error:
            failed.append(name)
            traceback.print_exc()
            progress.end(f"{type(error).__name__}: {error}")
        else:
            progress.end()
    return failed


def main() -> None:
    """Run the parts, then draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}, page; default: all")
    parser.add_argument("--quick", action="store_true", help="smaller and shorter, to see that all works")
    parser.add_argument("--minutes", type=float, default=30.0, help="of the soak, at most 600")
    parser.add_argument("--gentle", action="store_true", help="a soak that takes about half a core")
    parser.add_argument("--note", default="", help="to keep with the results, such as that others used the machine")
    parser.add_argument("--largest-mib", type=int, default=2048, help="largest tensor of the speed-up curves")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the results")
    given = parser.parse_args()
    unknown = [name for name in given.parts if name not in (*PARTS, "page")]
    if unknown or not 0 < given.minutes <= 600:
        parser.error(f"parts: wanted some of {', '.join(PARTS)}, page, got {unknown}; minutes: {given.minutes}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started here ends with this
    names = [name for name in dict.fromkeys(given.parts or PARTS) if name != "page"]
    given.out.mkdir(parents=True, exist_ok=True)
    run = Run(given.out, given.quick, given.minutes, given.gentle, given.largest_mib * MIB, given.note, print)
    progress = Progress({name: PARTS[name].planned_s(run) for name in names})
    failed = run_all(names, replace(run, say=progress.say), progress)
    print(f"drawn: {page.make(given.out)}")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
