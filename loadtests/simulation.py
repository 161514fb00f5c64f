"""The plan's cost model carried beyond this machine: to 1,024 nodes and 100 TB.

The leaves' and the root's times, and what an engine adds, are the model's own with this machine's measured profile;
every node is taken to be like this machine. What one machine does not have is added from measurements of its own or,
where there are none, from assumptions that are named so: the links between nodes, and storage. A node whose share of
the tensor does not fit in its memory twice (the projection is out of place) streams it from storage: read for each
sweep, written once.

    leaves   T = slowdown * (up + down)(bytes / nodes)             memory bandwidth
    storage  T = (2 reads + 1 write)(bytes / nodes) / rate         only where the share does not fit
    root     T = levels above + aggregates through one link        24 bytes a fibre: norm up, norm and radius down
    latency  T = request + 2 phases * (blocks * each + round trip)  the driver hands out one block after the other

The parts are added, as if none overlapped. The largest is the bound. The band holds the middle nine tenths of walls
whose leaves, overheads and links are drawn from the spread that was seen: how far the model was from each measured
point, and how far the links were from their names.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any, Literal

import numpy as np
from results import Point, quartiles

from normtree.engine.cost import MOVED_BYTES, Work
from normtree.engine.profile import SWEEPS, MachineProfile

Bound = Literal["bandwidth", "storage", "root", "latency"]
BOUNDS: tuple[Bound, ...] = ("bandwidth", "storage", "root", "latency")
NODES = tuple(2**n for n in range(11))
SIZES = (1e9, 1e10, 1e11, 1e12, 1e13, 1e14)
FIBRE = 8192  # elements
FLOAT32_BYTES, FLOAT64_BYTES = 4, 8
PHASES = 2
DRAWS = 400
REQUEST_MS, TASK_MS = 20.0, 0.5  # where two nodes were not measured
SMALL_BYTES, LARGE_BYTES = 1 << 20, 1 << 26
# Of memory, for one copy of a node's share: input and output, and a rest for everything else.
MEMORY_SHARE = 0.4


@dataclass(frozen=True)
class Parameter:
    """One number that goes in.

    Args:
        source: ``measured`` and where, or ``assumed``.
    """

    name: str
    value: float
    lower: float
    upper: float
    unit: str
    source: str


@dataclass(frozen=True)
class Hardware:
    """What a node has beside its profile.

    Args:
        memory_bytes: of a node.
        link_gb_s: bytes through a node's link, each way.
        round_trip_ms: between two nodes.
        read_gb_s: from a node's storage.
        write_gb_s: to it.
        request_ms: what a request adds that goes to several nodes.
        task_ms: what each block of it adds in each phase.
    """

    memory_bytes: float
    link_gb_s: float
    round_trip_ms: float
    read_gb_s: float
    write_gb_s: float
    request_ms: float
    task_ms: float


@dataclass(frozen=True)
class Parts:
    """Milliseconds of a projection by what they are bound by."""

    bandwidth: float
    storage: float
    root: float
    latency: float

    @property
    def wall_ms(self) -> float:
        return self.bandwidth + self.storage + self.root + self.latency

    @property
    def bound(self) -> Bound:
        return max(BOUNDS, key=lambda name: getattr(self, name))


@dataclass(frozen=True)
class Factors:
    """What a draw multiplies the parts by."""

    leaves: float = 1.0
    overhead: float = 1.0
    link: float = 1.0


def simulate(
    profile: MachineProfile, hardware: Hardware, nbytes: float, nodes: int, norm: str, factors: Factors = Factors()
) -> Parts:
    """Predict one two-level projection of float32 with long rows as groups, on so many nodes.

    Args:
        profile: of every node.
        hardware: of every node.
        nbytes: of the tensor.
        nodes: that share it evenly.
        norm: of the leaves.
        factors: of a draw.
    """
    share, fibres = nbytes / nodes, nbytes / FLOAT32_BYTES / FIBRE
    engine = profile.engines["ray" if "ray" in profile.engines else "inline"]
    leaf = Work(norm, "rows", "float32", int(share), FIBRE)
    leaves_ns = engine.slowdown * sum(leaf.ns(profile, sweep, profile.workers) for sweep in SWEEPS)
    above = Work("l1", "rows", "float64", int(FLOAT64_BYTES * fibres), int(fibres))
    above_ns = sum(above.ns(profile, sweep, 1.0) for sweep in SWEEPS)
    moved = MOVED_BYTES * fibres
    crossing_ns = factors.link * moved * (1 - 1 / nodes) / hardware.link_gb_s
    fits = share <= MEMORY_SHARE * hardware.memory_bytes
    stored_ns = 0.0 if fits else share * (2 / hardware.read_gb_s + 1 / hardware.write_gb_s)
    blocks = nodes * profile.workers
    added_ms, trips_ms = engine.request_ms + engine.block_ms * (blocks - 1), 0.0
    if nodes > 1:
        added_ms = hardware.request_ms + PHASES * hardware.task_ms * blocks
        trips_ms = PHASES * hardware.round_trip_ms
    return Parts(
        bandwidth=factors.leaves * leaves_ns / 1e6,
        storage=stored_ns / 1e6,
        root=(factors.leaves * above_ns + crossing_ns) / 1e6
        + factors.overhead * engine.moved_ms_per_mib * moved / 2**20,
        latency=factors.overhead * added_ms + factors.link * trips_ms,
    )


def errors(points: Sequence[Point]) -> dict[str, np.ndarray]:
    """Measured over predicted, of every point that was planned: small tensors, which overheads rule, and large ones."""
    told = [(point, point.wall_ms[1] / point.predicted_ms) for point in points if point.scaling == "strong"]
    return {
        "small": np.array([ratio for point, ratio in told if point.nbytes <= SMALL_BYTES]),
        "large": np.array([ratio for point, ratio in told if point.nbytes >= LARGE_BYTES]),
        "all": np.array([ratio for _, ratio in told]),
    }


def draws(spread: Mapping[str, np.ndarray], link: np.ndarray) -> list[Factors]:
    """Draw factors from what was seen."""
    random = np.random.default_rng(0)
    columns = [random.choice(each, DRAWS) for each in (spread["large"], spread["small"], link)]
    return [Factors(*map(float, row)) for row in zip(*columns, strict=True)]


def scale(profile: MachineProfile, hardware: Hardware, norm: str, factors: Sequence[Factors]) -> list[dict[str, Any]]:
    """Walk all sizes and numbers of nodes; speed-up is over one node like the others."""
    found = []
    for nbytes, nodes in product(SIZES, NODES):
        parts = simulate(profile, hardware, nbytes, nodes, norm)
        alone = simulate(profile, hardware, nbytes, 1, norm)
        drawn = [
            (simulate(profile, hardware, nbytes, nodes, norm, each).wall_ms,
             simulate(profile, hardware, nbytes, 1, norm, each).wall_ms) for each in factors
        ]  # fmt: skip
        lower, upper = np.quantile([wall for wall, _ in drawn], (0.05, 0.95))
        less, more = np.quantile([one / wall for wall, one in drawn], (0.05, 0.95))
        found.append(
            {
                "nbytes": nbytes, "nodes": nodes, "norm": f"l1,{norm}",
                "where": "memory" if parts.storage == 0 else "storage",
                "wall_s": parts.wall_ms / 1e3, "lower_s": float(lower) / 1e3, "upper_s": float(upper) / 1e3,
                "speedup": alone.wall_ms / parts.wall_ms, "speedup_lower": float(less), "speedup_upper": float(more),
                "bound": parts.bound, **{name: getattr(parts, name) / 1e3 for name in BOUNDS},
            }
        )  # fmt: skip
    return found


def validate(points: Sequence[Point]) -> list[dict[str, Any]]:
    """How far the model was from what was measured, by engine: relative errors of the walls."""
    rows = []
    for engine in dict.fromkeys(point.engine for point in points):
        for what, least in (("all sizes", 0), ("64 MiB and more", LARGE_BYTES)):
            off = [abs(p.predicted_ms / p.wall_ms[1] - 1) for p in points if p.engine == engine and p.nbytes >= least]
            if off:
                rows.append(_row(f"curves, {engine}, {what}", off))
    return rows


def on_wires(
    profile: MachineProfile, hardware: Hardware, nodes: Mapping[str, Any]
) -> tuple[Hardware, list[dict[str, Any]]]:
    """Take what a request over two nodes adds from the shortest, fastest wire, and predict the other wires with it.

    Both nodes share this machine's memory, so their leaves take what one node's would with all workers.

    Returns:
        The hardware with what was found, and how far the walls on the other wires were predicted off.
    """
    runs = [run for run in nodes["runs"] if run["way"] == "tree"]
    runs.sort(key=lambda run: (run["delay_ms"], -run["gbit_s"]))
    found = replace(hardware, request_ms=0.0, task_ms=float(np.median([run["task_ms"] for run in runs])))

    def wall_ms(run: Mapping[str, Any], there: Hardware) -> float:
        wires = {(wire["gbit_s"], wire["round_trip_ms"]): wire["is"] for wire in nodes["wires"]}
        wire = wires[run["gbit_s"], run["delay_ms"]]
        there = replace(there, link_gb_s=wire["gbit_s"] / 8, round_trip_ms=wire["round_trip_ms"])
        alone, both = (simulate(profile, there, run["nbytes"], count, "linf") for count in (1, 2))
        tasks_ms = PHASES * there.task_ms * 2 * (profile.workers - 1)  # each node here has one worker
        return both.wall_ms - both.bandwidth + alone.bandwidth - tasks_ms

    found = replace(found, request_ms=max(0.0, runs[0]["wall_ms"] - wall_ms(runs[0], found)))
    off = [abs(wall_ms(run, found) / run["wall_ms"] - 1) for run in runs[1:]]
    return found, [_row("two nodes, moving the tree, on the other wires", off)] if off else []


def of_results(
    curves: Mapping[str, Any], nodes: Mapping[str, Any] | None, storage: tuple[float, float]
) -> dict[str, Any]:
    """Simulate from the results of the other parts.

    Args:
        curves: the speed-up curves, with the profile the plans were made by.
        nodes: the runs on two nodes; None where there were none.
        storage: rates of reading and writing, in GB/s.
    """
    profile = MachineProfile.from_json(json.dumps(curves["profile"]).encode())
    points = [Point.of(each) for each in curves["points"]]
    spread, wires = errors(points), nodes["wires"] if nodes else []
    short = [wire["gbit_s"] / wire["is"]["gbit_s"] for wire in wires if wire["round_trip_ms"] <= 1]
    link = np.array(short or [1.0, 1.25, 1.5])
    sources = {
        "link": "assumed: 10 Gb/s, 0.1 ms; its spread " + ("measured: two nodes" if short else "assumed"),
        "storage": "measured: this machine, past the page cache",
        "tasks": "measured: two nodes" if nodes else "assumed",
    }
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    hardware = Hardware(memory, 1.25, 0.1, *storage, request_ms=REQUEST_MS, task_ms=TASK_MS)
    hardware, crossed = on_wires(profile, hardware, nodes) if nodes else (hardware, [])
    factors = draws(spread, link)
    scales = [scale(profile, hardware, norm, factors) for norm in ("linf", "l1")]
    return {
        "parameters": [asdict(each) for each in parameters(profile, hardware, spread, link, sources)],
        "validation": [*validate(points), *crossed],
        "scales": [each for norm in scales for each in norm],
    }


def _row(against: str, off: Sequence[float]) -> dict[str, Any]:
    return {"against": against, "runs": len(off), "median": quartiles(off)[1], "worst": max(off)}


def parameters(
    profile: MachineProfile,
    hardware: Hardware,
    spread: Mapping[str, np.ndarray],
    link: np.ndarray,
    sources: Mapping[str, str],
) -> list[Parameter]:
    """All that went in, for the tables."""
    engine = profile.engines["ray" if "ray" in profile.engines else "inline"]
    here = "measured: the machine profile"

    def exact(name: str, value: float, unit: str, source: str) -> Parameter:
        return Parameter(name, value, value, value, unit, source)

    def spread_of(name: str, values: np.ndarray, source: str) -> Parameter:
        lower, middle, upper = (float(cut) for cut in np.quantile(values, (0.05, 0.5, 0.95)))
        return Parameter(name, middle, lower, upper, "×", source)

    return [
        exact("workers of a node", profile.workers, "", here),
        exact("request on one node", engine.request_ms, "ms", here),
        exact("each further block on one node", engine.block_ms, "ms", here),
        exact("moving norms and radii", engine.moved_ms_per_mib, "ms/MiB", here),
        exact("memory of a node", hardware.memory_bytes / 2**30, "GiB", "measured: this machine"),
        exact("link", hardware.link_gb_s, "GB/s", sources["link"]),
        exact("round trip", hardware.round_trip_ms, "ms", sources["link"]),
        exact("request over several nodes", hardware.request_ms, "ms", sources["tasks"]),
        exact("each of its blocks, each phase", hardware.task_ms, "ms", sources["tasks"]),
        exact("storage, read", hardware.read_gb_s, "GB/s", sources["storage"]),
        exact("storage, write", hardware.write_gb_s, "GB/s", sources["storage"]),
        exact("elements of a group", FIBRE, "", "chosen"),
        spread_of("measured / predicted, 64 MiB and more", spread["large"], "measured: speed-up curves"),
        spread_of("measured / predicted, 1 MiB and less", spread["small"], "measured: speed-up curves"),
        spread_of("link's time / its name's", link, sources["link"]),
    ]
