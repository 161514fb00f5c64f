"""Pictures of the results, drawn from the JSON files alone: they can be drawn again without measuring again."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter
from speed.laws import amdahl, usl
from tools.results import Point
from tools.words import MIB, NAMES, bytes_text

from drawings.style import COLOURS, INK, save


def by_size(points: Sequence[Point], path: Path) -> None:
    """Walls, and speed-ups with all workers, against the size of the tensor."""
    strong = [point for point in points if point.scaling == "strong"]
    norms, most = _norms(strong), max(point.workers for point in strong)
    figure, panels = plt.subplots(
        2, len(norms), figsize=(12, 6.4), constrained_layout=True, sharex=True, sharey="row", squeeze=False
    )
    for column, norm in enumerate(norms):
        above, below = panels[0, column], panels[1, column]
        here = [point for point in strong if point.norm == norm]
        _walls_by_size(above, here, most)
        for engine in _engines(here):
            line = sorted((p for p in here if p.engine == engine and p.workers == most), key=lambda p: p.nbytes)
            lower, middle, upper = np.array([p.speedups for p in line]).T
            x = [p.nbytes for p in line]
            below.plot(x, middle, "o-", color=COLOURS[engine], ms=4, label=f"{NAMES[engine]}, {most} workers")
            below.fill_between(x, lower, upper, color=COLOURS[engine], alpha=0.2, lw=0)
        floors = _floors(here)
        x = sorted(floors)
        below.plot(x, [floors[n][1] / floors[n][most] for n in x], "--", color=COLOURS["floor"], lw=1.2,
                   label=f"memory, {most} threads / 1")  # fmt: skip
        below.axhline(1, color=INK, lw=0.8)
        above.set_title(norm)
        below.set_xlabel("tensor, float32")
        below.set_ylim(0, most * 1.25)
        _size_axis(below, x)
    panels[0, 0].set_ylabel("wall, ms")
    panels[1, 0].set_ylabel("speed-up over the best serial program")
    panels[0, 0].set_ylim(0.5 * min(p.floor_ms for p in strong), 1.5 * max(p.wall_ms[1] for p in strong))
    panels[1, 0].legend(loc="upper left")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=6)
    save(figure, path)


def _walls_by_size(panel: Axes, here: Sequence[Point], most: int) -> None:
    for engine in _engines(here):
        for count, style in ((1, "o--"), (most, "o-")):
            line = sorted((p for p in here if p.engine == engine and p.workers == count), key=lambda p: p.nbytes)
            plural = "s" if count > 1 else ""
            panel.plot(
                [p.nbytes for p in line], [p.wall_ms[1] for p in line], style, color=COLOURS[engine], ms=3, lw=1.2,
                label=f"{NAMES[engine]}, {count} worker{plural}",
            )  # fmt: skip
    serial = sorted({p.nbytes: median(p.serials_ms) for p in here}.items())
    panel.plot(*zip(*serial, strict=True), "-", color=INK, lw=1, label="best serial program")
    floors = _floors(here)
    x = sorted(floors)
    floor = [floors[n][most] for n in x]
    panel.fill_between(
        x, 1e-3, floor, color=COLOURS["floor"], alpha=0.25, lw=0, label=f"memory's floor, {most} threads"
    )
    panel.set_yscale("log")
    panel.set_ylim(0.5 * min(floor), None)
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def by_workers(points: Sequence[Point], fits: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Speed-up against workers at the largest size that all cases have, with both laws carried beyond the cores."""
    strong = [point for point in points if point.scaling == "strong"]
    norms, cores = _norms(strong), max(point.workers for point in strong)
    nbytes = max(point.nbytes for point in strong if point.nbytes <= 256 * MIB)
    reach = np.linspace(1, 4 * cores, 100)
    figure, panels = plt.subplots(1, len(norms), figsize=(12, 4), constrained_layout=True, sharey=True)
    for panel, norm in zip(np.atleast_1d(panels), norms, strict=True):
        here = [point for point in strong if point.norm == norm and point.nbytes == nbytes]
        panel.axvspan(cores, reach[-1], color="#f3f3f3", zorder=0)
        panel.plot(reach, reach, color=INK, lw=0.8, label="ideal")
        floors = _floors(here)[nbytes]
        panel.plot(sorted(floors), [floors[1] / floors[n] for n in sorted(floors)], "s--", ms=4, color=COLOURS["floor"],
                   label="memory's own")  # fmt: skip
        for engine in _engines(here):
            line = sorted((p for p in here if p.engine == engine), key=lambda p: p.workers)
            lower, middle, upper = np.array([p.speedups for p in line]).T
            x = [p.workers for p in line]
            panel.errorbar(x, middle, [middle - lower, upper - middle], fmt="o", color=COLOURS[engine], capsize=3,
                           label=f"{NAMES[engine]}, measured")  # fmt: skip
            for fit in fits:
                if (fit["engine"], fit["norm"], fit["nbytes"]) == (engine, norm, nbytes):
                    _laws(panel, reach, middle[0], fit["fit"], engine)
        panel.set_title(f"{norm}, {bytes_text(nbytes)}")
        panel.set_xlabel("workers")
        panel.text(0.98, 0.02, "more workers than cores: the laws alone", transform=panel.transAxes, ha="right",
                   fontsize=8, color=COLOURS["floor"])  # fmt: skip
        panel.set_ylim(0, cores * 1.25)
        panel.set_xlim(0.8, reach[-1])
    figure.axes[0].set_ylabel("speed-up over the best serial program")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=8)
    save(figure, path)


def _laws(panel: Axes, reach: np.ndarray, start: float, fit: Mapping[str, Any], engine: str) -> None:
    """Amdahl's law with its interval, and the USL; both start where one worker was measured."""
    serial = fit["serial"]
    panel.plot(reach, start * amdahl(reach, serial["value"]), "-", lw=1.2, color=COLOURS[engine],
               label=f"{NAMES[engine]}, Amdahl")  # fmt: skip
    panel.fill_between(reach, start * amdahl(reach, serial["upper"]), start * amdahl(reach, serial["lower"]),
                       color=COLOURS[engine], alpha=0.12, lw=0)  # fmt: skip
    if fit["coherency"]["value"]:
        curve = start * usl(reach, fit["contention"]["value"], fit["coherency"]["value"])
        panel.plot(reach, curve, ":", lw=1.5, color=COLOURS[engine], label=f"{NAMES[engine]}, USL")


def weak(points: Sequence[Point], path: Path) -> None:
    """Efficiency when the tensor grows with the workers."""
    grown = [point for point in points if point.scaling == "weak"]
    norms = _norms(grown)
    figure, panels = plt.subplots(1, len(norms), figsize=(12, 3.6), constrained_layout=True, sharey=True)
    for panel, norm in zip(np.atleast_1d(panels), norms, strict=True):
        here = [point for point in grown if point.norm == norm]
        parts = sorted({point.nbytes // point.workers for point in here})
        for engine in _engines(here):
            for part, style in zip(parts, ("o:", "o-", "o-."), strict=False):
                line = [p for p in here if p.engine == engine and p.nbytes // p.workers == part]
                line.sort(key=lambda p: p.workers)
                lower, middle, upper = np.array([[s / p.workers for s in p.speedups] for p in line]).T
                panel.errorbar([p.workers for p in line], middle, [middle - lower, upper - middle], fmt=style,
                               color=COLOURS[engine], ms=4, capsize=3,
                               label=f"{NAMES[engine]}, {bytes_text(part)} a worker")  # fmt: skip
        floors = _floors([point for point in here if point.nbytes // point.workers == parts[-1]])
        x = {n: floor for by_count in floors.values() for n, floor in by_count.items()}
        panel.plot(sorted(x), [x[1] / x[n] for n in sorted(x)], "s--", ms=4, color=COLOURS["floor"],
                   label=f"memory's own, {bytes_text(parts[-1])}")  # fmt: skip
        panel.axhline(1, color=INK, lw=0.8)
        panel.set_title(norm)
        panel.set_xticks(sorted(x))
        panel.set_xlim(0.8, max(x) + 0.2)
        panel.set_xlabel("workers")
        panel.set_ylim(0, 1.1 * max(1.0, max(p.speedups[2] / p.workers for p in grown)))
    figure.axes[0].set_ylabel("efficiency: one worker's serial time / wall")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    save(figure, path)


def _norms(points: Sequence[Point]) -> list[str]:
    return list(dict.fromkeys(point.norm for point in points))


def _engines(points: Sequence[Point]) -> list[str]:
    return list(dict.fromkeys(point.engine for point in points))


def _floors(points: Sequence[Point]) -> dict[int, dict[int, float]]:
    """Floor in milliseconds by bytes and threads."""
    floors: dict[int, dict[int, float]] = {}
    for point in points:
        floors.setdefault(point.nbytes, {})[point.workers] = point.floor_ms
    return floors


def _size_axis(panel: Axes, ticks: Sequence[int]) -> None:
    panel.set_xscale("log", base=2)
    panel.set_xticks(list(ticks), [bytes_text(n) for n in ticks], rotation=45, ha="right")
    panel.xaxis.set_minor_formatter(NullFormatter())


def predict(cases: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Measured over predicted walls against the size of the tensor."""
    figure, panels = plt.subplots(1, 2, figsize=(12, 3.6), constrained_layout=True, sharey=True)
    kinds = list(dict.fromkeys((case["norm"], case["axes"]) for case in cases))
    sizes = sorted({int(case["mib"] * MIB) for case in cases})
    for panel, engine in zip(panels, ("inline", "ray"), strict=True):
        for (norm, axes), colour in zip(kinds, ("#1b6ca8", "#d1671c", "#2a7f4f"), strict=False):
            here = [case for case in cases if (case["norm"], case["axes"]) == (norm, axes)]
            ratios = [case[engine]["measured_ms"] / case[engine]["predicted_ms"] for case in here]
            panel.plot([case["mib"] * MIB for case in here], ratios, "o-", ms=4, color=colour, label=f"{norm}, {axes}")
        panel.axhspan(1 / 1.25, 1.25, color="#eeeeee", zorder=0)
        panel.axhline(1, color=INK, lw=0.8)
        panel.set_yscale("log", base=2)
        panel.yaxis.set_major_locator(FixedLocator([0.25, 0.5, 0.8, 1, 1.25, 2, 4]))
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.set_title(NAMES[engine])
        panel.set_xlabel("tensor, float32")
        _size_axis(panel, sizes)
    panels[0].set_ylabel("measured / plan (grey: within a quarter)")
    panels[0].legend(loc="best")
    save(figure, path)


LATENCIES = {"p50_ms": "#9ec5e3", "p90_ms": "#5a9bce", "p99_ms": "#1b6ca8", "p999_ms": "#0d3b5e"}


def latency(curves: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Percentiles above, what became of the requests below, against the offered rate."""
    figure, panels = plt.subplots(
        2, len(curves), figsize=(4.6 * len(curves), 6.8), constrained_layout=True, sharex="col", squeeze=False
    )
    for (above, below), curve in zip(panels.T, curves, strict=True):
        offered = [rate["offered_per_s"] for rate in curve["rates"]]
        _percentiles(above, offered, curve["rates"])
        _outcomes(below, offered, curve["rates"])
        for panel in (above, below):
            panel.axvline(curve["capacity_per_s"], color=COLOURS["floor"], lw=1)
            panel.axvspan(curve["capacity_per_s"], 1.03 * offered[-1], color="#f3f3f3", zorder=0)
            panel.set_xlim(0, 1.03 * offered[-1])
        if "bound_per_s" in curve:
            below.axhline(curve["bound_per_s"], color=COLOURS["good"], lw=0.8, label="bound of the rate")
        above.set_title(f"{curve['name']}: {bytes_text(curve['body_bytes'] // 1024 * 1024)} a request")
        below.set_xlabel("offered, requests a second (grey: beyond capacity)")
    panels[0, 0].set_ylabel("latency from the intended time, ms")
    panels[1, 0].set_ylabel("requests a second")
    every = {label: handle for panel in panels.flat
             for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}  # fmt: skip
    figure.legend(every.values(), every.keys(), loc="outside upper center", ncols=6)
    save(figure, path)


def _percentiles(panel: Axes, offered: Sequence[float], rates: Sequence[Mapping[str, Any]]) -> None:
    for name, colour in LATENCIES.items():
        known = [(x, rate[name]) for x, rate in zip(offered, rates, strict=True) if rate[name] is not None]
        if known:
            label = name.removesuffix("_ms").replace("p999", "p99.9")
            panel.plot(*zip(*known, strict=True), "o-", ms=4, color=colour, label=label)
    late = [max(rate["generator_late_p99_ms"], 1e-2) for rate in rates]
    panel.plot(offered, late, ":", lw=1, color=INK, label="generator late, p99")
    panel.set_yscale("log")
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _outcomes(panel: Axes, offered: Sequence[float], rates: Sequence[Mapping[str, Any]]) -> None:
    panel.plot(offered, offered, "--", color=COLOURS["floor"], lw=1, label="offered")
    good = [rate["goodput_per_s"] for rate in rates]
    panel.plot(offered, good, "o-", ms=4, color=COLOURS["good"], label="right answers in time")
    for status, mark in (("429", "s-"), ("503", "^-")):
        refused = [rate["rejected_as"].get(status, 0) / rate["seconds"] for rate in rates]
        if any(refused):
            panel.plot(offered, refused, mark, ms=4, color=COLOURS["bad"], label=f"refused, {status}")
    late = [max(0.0, rate["good"] / rate["seconds"] - rate["goodput_per_s"]) for rate in rates]
    lost = [rate["unanswered"] / rate["seconds"] for rate in rates]
    panel.plot(offered, late, ":", lw=1.2, color=COLOURS["good"], label="right answers after the end")
    panel.plot(offered, lost, ":", lw=1.2, color=COLOURS["bad"], label="still unanswered 5 s later")
    panel.set_ylim(0, 1.05 * offered[-1])
    busy = panel.twinx()
    busy.plot(offered, [rate["generator_cpu"] for rate in rates], "-.", lw=1, color="#8a6db1")
    busy.set_ylim(0, 1.05)
    busy.grid(False)
    busy.spines["right"].set_visible(True)
    busy.tick_params(axis="y", colors="#8a6db1")
    busy.set_ylabel("generator's share of a core", color="#8a6db1", fontsize=8)


def soak(samples: Sequence[Mapping[str, float]], path: Path) -> None:
    """What a service held over the time of a mixed load."""
    figure, panels = plt.subplots(1, 3, figsize=(12, 3.2), constrained_layout=True)
    minutes = [each["at_s"] / 60 for each in samples]
    names = {"anonymous_mib": "memory of all processes, MiB", "segments_mib": "shared memory, MiB",
             "descriptors": "open descriptors of all processes"}  # fmt: skip
    for panel, (name, title) in zip(panels, names.items(), strict=True):
        values = [each[name] for each in samples]
        panel.plot(minutes, values, color=COLOURS["inline"], lw=1.2)
        panel.set_ylim(0, 1.15 * max(*values, 1))
        panel.set_title(title)
        panel.set_xlabel("minutes")
    save(figure, path)


def nodes(runs: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Walls and bytes on the wire of both ways, by network."""
    ways = {"tree": ("moving the tree", COLOURS["inline"]), "tensor": ("shipping the tensor", COLOURS["ray"])}
    wires = list(dict.fromkeys((run["link"], run["delay_ms"]) for run in runs))
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4), constrained_layout=True)
    places = np.arange(len(wires))
    for offset, (way, (label, colour)) in zip((-0.2, 0.2), ways.items(), strict=True):
        here = [next(r for r in runs if r["way"] == way and (r["link"], r["delay_ms"]) == each) for each in wires]
        walls = [run["wall_ms"] for run in here]
        spread = [[r["wall_ms"] - r["lower_ms"] for r in here], [r["upper_ms"] - r["wall_ms"] for r in here]]
        left.bar(places + offset, walls, 0.38, yerr=spread, color=colour, label=label, capsize=3)
        crossed = [run["wire_bytes"] for run in here]
        right.bar(places + offset, crossed, 0.38, color=colour, label=label)
        for x, wall, count, run in zip(places + offset, walls, crossed, here, strict=True):
            left.text(x, 1.12 * run["upper_ms"], f"{wall:.0f}", ha="center", fontsize=8)
            right.text(x, 1.12 * count, f"{count / run['nbytes']:.1%}", ha="center", fontsize=8)
    nbytes = runs[0]["nbytes"]
    right.axhline(nbytes, color=INK, lw=0.8)
    right.text(-0.45, 0.72 * nbytes, "the tensor", fontsize=8)
    for panel, title in ((left, "wall, ms"), (right, "bytes on the wire, both ways, and their share of the tensor")):
        panel.set_yscale("log")
        panel.set_title(title)
        panel.set_xticks(places, [f"{link}\n{delay:g} ms" for link, delay in wires])
        panel.grid(axis="x", visible=False)
    left.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    left.set_ylim(10, 3 * max(run["upper_ms"] for run in runs))
    right.set_ylim(1e4, 8 * nbytes)
    left.set_xlabel("rate and round trip of the wire")
    right.set_xlabel("rate and round trip of the wire")
    left.legend(loc="upper right")
    save(figure, path)
