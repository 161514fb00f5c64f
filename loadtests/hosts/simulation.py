"""The plan's cost model carried beyond this machine: to 1,024 nodes and 100 TB.

The leaves' and the root's times, and what an engine adds on one node, are the model's own with this machine's measured
profile; every node is taken to be like this machine. What a request over several nodes adds is fitted to other requests
over two nodes (`nodes_cost`), made by the product's own path. What neither has is measured by itself or, where it
cannot be, assumed, and named so: the links between nodes, and storage. A node whose share of the tensor does not fit in
its memory twice (the projection is out of place) streams it from storage: read for each sweep, written once.

    leaves   T = slowdown * (up + down)(bytes / nodes) + keep      memory bandwidth
    storage  T = (2 reads + 1 write)(bytes / nodes) / rate         only where the share does not fit
    root     T = levels above + aggregates through one link        24 bytes a fibre: norm up, norm and radius down
    latency  T = request + blocks * each + trips * round trip      the driver hands out one block after the other

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
from tools.results import Point, quartiles
from tools.words import NAMES

from hosts.nodes_cost import NodesCost, fit_probes
from normtree.engine.profile.cost import MOVED_BYTES, SweepWork
from normtree.engine.profile.machine_profile import MIB, SWEEPS, MachineProfile

Bound = Literal["bandwidth", "storage", "root", "latency"]
BOUNDS: tuple[Bound, ...] = ("bandwidth", "storage", "root", "latency")
NODES_HERE = 2
RELAYED_GBIT_S = 1.0  # what is faster is bound by the relay between the nodes, and says nothing of real links
NODES = tuple(2**n for n in range(11))
SIZES = (1e9, 1e10, 1e11, 1e12, 1e13, 1e14)
FIBRE = 8192  # elements
FLOAT32_BYTES, FLOAT64_BYTES = 4, 8
DRAWS = 400
ASSUMED = NodesCost(request_ms=10.0, block_ms=1.0, trips=4.0, keep_ms_per_mib=0.5)  # where two nodes were not measured
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
        several: what a request adds that goes to several nodes.
    """

    memory_bytes: float
    link_gb_s: float
    round_trip_ms: float
    read_gb_s: float
    write_gb_s: float
    several: NodesCost


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
    profile: MachineProfile,
    hardware: Hardware,
    nbytes: float,
    nodes: int,
    norm: str,
    factors: Factors = Factors(),
    columns: int = FIBRE,
) -> Parts:
    """Predict one two-level projection of float32 with long rows as groups, on so many nodes.

    Args:
        profile: of every node.
        hardware: of every node.
        nbytes: of the tensor.
        nodes: that share it evenly.
        norm: of the leaves.
        factors: of a draw.
        columns: elements of a group.
    """
    share, fibres = nbytes / nodes, nbytes / FLOAT32_BYTES / columns
    engine = profile.engines["ray" if "ray" in profile.engines else "inline"]
    leaf = SweepWork(norm, "rows", "float32", int(share), columns)
    leaves_ns = engine.slowdown * sum(leaf.ns(profile, sweep, profile.workers) for sweep in SWEEPS)
    above = SweepWork("l1", "rows", "float64", int(FLOAT64_BYTES * fibres), int(fibres))
    above_ns = sum(above.ns(profile, sweep, 1.0) for sweep in SWEEPS)
    moved = MOVED_BYTES * fibres
    crossing_ns = factors.link * moved * (1 - 1 / nodes) / hardware.link_gb_s
    fits = share <= MEMORY_SHARE * hardware.memory_bytes
    stored_ns = 0.0 if fits else share * (2 / hardware.read_gb_s + 1 / hardware.write_gb_s)
    blocks = nodes * profile.workers
    added_ms, trips_ms, keep_ms = engine.request_ms + engine.block_ms * (blocks - 1), 0.0, 0.0
    if nodes > 1:
        added_ms = hardware.several.ms(blocks, 0.0, 0.0)
        trips_ms = hardware.several.trips * hardware.round_trip_ms
        keep_ms = hardware.several.keep_ms_per_mib * share / MIB
    return Parts(
        bandwidth=factors.leaves * (leaves_ns / 1e6 + keep_ms),
        storage=stored_ns / 1e6,
        root=(factors.leaves * above_ns + crossing_ns) / 1e6 + factors.overhead * engine.moved_ms_per_mib * moved / MIB,
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
    found: list[dict[str, Any]] = []
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


@dataclass(frozen=True)
class Check:
    """One point that was measured, and what the model says of it."""

    against: str
    wall_ms: float
    predicted_ms: float

    @property
    def off(self) -> float:
        return abs(self.predicted_ms / self.wall_ms - 1)


def check_curves(points: Sequence[Point]) -> list[Check]:
    """The model against every measured point of one node."""
    return [Check(f"one node, {NAMES[p.engine]}", p.wall_ms[1], p.predicted_ms) for p in points]


def check_nodes(profile: MachineProfile, hardware: Hardware, nodes: Mapping[str, Any]) -> tuple[Hardware, list[Check]]:
    """Fit what a request over two nodes adds to the probes, and predict the walls, of which none was fitted to.

    Both nodes share this machine's memory and cores, so their leaves take what one node's would with all workers.

    Returns:
        The hardware with what was found, and the walls of moving the tree on every wire.
    """
    wires = {(wire["gbit_s"], wire["round_trip_ms"]): wire["is"] for wire in nodes["wires"]}

    def there(run: Mapping[str, Any], several: NodesCost) -> Hardware:
        wire = wires[run["gbit_s"], run["delay_ms"]]
        link_gb_s, round_trip_ms = wire["gbit_s"] / 8, wire["round_trip_ms"]
        return replace(hardware, link_gb_s=link_gb_s, round_trip_ms=round_trip_ms, several=several)

    def wall_ms(run: Mapping[str, Any], several: NodesCost) -> float:
        where = there(run, several)
        alone = simulate(profile, where, run["nbytes"], 1, "linf", columns=run["nbytes"] // 4 // run["fibres"])
        added_ms = several.ms(run["blocks"], where.round_trip_ms, run["nbytes"] / NODES_HERE)
        moved_ms = MOVED_BYTES * float(run["fibres"]) / 2 / where.link_gb_s / 1e6
        return alone.bandwidth + alone.root + moved_ms + added_ms

    nothing = NodesCost(0.0, 0.0, 0.0, 0.0)
    probes = [
        {**probe, "nodes": NODES_HERE, "round_trip_ms": there(probe, nothing).round_trip_ms}
        for probe in nodes["probes"]
    ]
    found = fit_probes(probes, [wall_ms(probe, nothing) for probe in probes])
    runs = [run for run in nodes["runs"] if run["way"] == "tree"]
    checks = [Check("two nodes, moving the tree", run["wall_ms"], wall_ms(run, found)) for run in runs]
    checks += [Check("two nodes, what was fitted", probe["wall_ms"], wall_ms(probe, found)) for probe in probes]
    return replace(hardware, several=found), checks


def validation(checks: Sequence[Check]) -> list[dict[str, Any]]:
    """How far the model was from what was measured, by kind of point: relative errors of the walls."""
    rows = []
    for against in dict.fromkeys(check.against for check in checks):
        off = [check.off for check in checks if check.against == against]
        rows.append({"against": against, "runs": len(off), "median": quartiles(off)[1], "worst": max(off)})
    return rows


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
    short = [
        wire["gbit_s"] / wire["is"]["gbit_s"]
        for wire in wires
        if wire["gbit_s"] <= RELAYED_GBIT_S and wire["round_trip_ms"] <= 1
    ]
    link = np.array(short or [1.0, 1.25, 1.5])
    sources = {
        "link": "assumed: 10 Gb/s, 0.1 ms; its spread " + ("measured: two nodes" if short else "assumed"),
        "storage": "measured: this machine, past the page cache",
        "several": "fitted: requests over two nodes" if nodes else "assumed",
    }
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    hardware = Hardware(memory, 1.25, 0.1, *storage, several=ASSUMED)
    hardware, crossed = check_nodes(profile, hardware, nodes) if nodes else (hardware, [])
    checks = [*check_curves(points), *crossed]
    factors = draws(spread, link)
    scales = [scale(profile, hardware, norm, factors) for norm in ("linf", "l1")]
    return {
        "parameters": [asdict(each) for each in parameters(profile, hardware, spread, link, sources)],
        "validation": validation(checks),
        "checks": [asdict(check) for check in checks],
        "scales": [each for norm in scales for each in norm],
    }


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
        exact("request over several nodes", hardware.several.request_ms, "ms", sources["several"]),
        exact("each of its blocks", hardware.several.block_ms, "ms", sources["several"]),
        exact("its round trips", hardware.several.trips, "", sources["several"]),
        exact("keeping its result", hardware.several.keep_ms_per_mib, "ms/MiB", sources["several"]),
        exact("storage, read", hardware.read_gb_s, "GB/s", sources["storage"]),
        exact("storage, write", hardware.write_gb_s, "GB/s", sources["storage"]),
        exact("elements of a group", FIBRE, "", "chosen"),
        spread_of("measured / predicted, 64 MiB and more", spread["large"], "measured: speed-up curves"),
        spread_of("measured / predicted, 1 MiB and less", spread["small"], "measured: speed-up curves"),
        spread_of("link's time / its name's", link, sources["link"]),
    ]
