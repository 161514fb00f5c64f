"""Pictures of the simulation: speed-ups, what bounds them, and how far the model was from what was measured."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter
from tools.words import bytes_text

from drawings.style import INK, save

CHECKED = {  # by what was measured: colour and mark
    "one node, threads": ("#1b6ca8", "o"),
    "one node, Ray": ("#d1671c", "o"),
    "two nodes, what was fitted": ("#999999", "^"),
    "two nodes, moving the tree": ("#2a7f4f", "D"),
}


def simulation(plain: Mapping[str, Any], path: Path) -> None:
    """Speed-up over one node with its band, and what bounds each scale, for each norm."""
    norms = list(dict.fromkeys(each["norm"] for each in plain["scales"]))
    figure, panels = plt.subplots(2, len(norms), figsize=(12, 8), constrained_layout=True, squeeze=False)
    for column, norm in enumerate(norms):
        here = [each for each in plain["scales"] if each["norm"] == norm]
        _simulated_speedup(panels[0, column], here)
        _bounds(panels[1, column], here)
        panels[0, column].set_title(f"{norm}: speed-up over one node")
        panels[1, column].set_title(f"{norm}: seconds, and what bounds them")
    errors = [f"{each['against']} {each['median']:.0%} (at worst {each['worst']:.0%})" for each in plain["validation"]]
    figure.suptitle("the model was off at the median: " + "; ".join(errors), fontsize=8, color="#5b6570")
    save(figure, path)


def checks(plain: Mapping[str, Any], path: Path) -> None:
    """Predicted against measured walls, and their ratios against the wall."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.4), constrained_layout=True)
    for row in plain["validation"]:
        here = [each for each in plain["checks"] if each["against"] == row["against"]]
        walls, told = np.array([(each["wall_ms"], each["predicted_ms"]) for each in here]).T
        colour, mark = CHECKED[row["against"]]
        label = f"{row['against']}: {row['runs']} points, off by {row['median']:.0%}, at worst {row['worst']:.0%}"
        left.plot(walls, told, mark, color=colour, ms=5, alpha=0.75, mew=0, label=label)
        right.plot(walls, told / walls, mark, color=colour, ms=5, alpha=0.75, mew=0)
    every = [each["wall_ms"] for each in plain["checks"]]
    span = np.array([0.7 * min(every), 1.4 * max(every)])
    left.plot(span, span, color=INK, lw=0.8)
    left.fill_between(span, span / 1.25, span * 1.25, color="#eeeeee", zorder=0)
    right.axhspan(1 / 1.25, 1.25, color="#eeeeee", zorder=0)
    right.axhline(1, color=INK, lw=0.8)
    left.set_ylabel("model, ms")
    right.set_ylabel("model / measured (grey: within a quarter)")
    left.set_yscale("log")
    right.set_yscale("log", base=2)
    worst = max(max(each["predicted_ms"] / each["wall_ms"], each["wall_ms"] / each["predicted_ms"])
                for each in plain["checks"])  # fmt: skip
    ticks = [tick for tick in (0.1, 0.25, 0.5, 0.8, 1, 1.25, 2, 4, 10) if 1 / worst / 1.2 <= tick <= worst * 1.2]
    right.set_yticks(ticks, ticks)
    right.yaxis.set_minor_formatter(NullFormatter())
    for panel in (left, right):
        panel.set_xscale("log")
        panel.set_xlabel("measured, ms")
        panel.set_xlim(*span)
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    left.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    save(figure, path)


def _simulated_speedup(panel: Axes, here: Sequence[Mapping[str, Any]]) -> None:
    sizes = sorted({each["nbytes"] for each in here})
    for nbytes, colour in zip(sizes, plt.get_cmap("viridis")(np.linspace(0, 0.9, len(sizes))), strict=True):
        line = sorted((each for each in here if each["nbytes"] == nbytes), key=lambda each: each["nodes"])
        x = [each["nodes"] for each in line]
        panel.plot(x, [each["speedup"] for each in line], color=colour, label=bytes_text(nbytes))
        lower, upper = ([each[name] for each in line] for name in ("speedup_lower", "speedup_upper"))
        panel.fill_between(x, lower, upper, color=colour, alpha=0.2, lw=0)
    nodes = sorted({each["nodes"] for each in here})
    panel.plot(nodes, nodes, "--", color=INK, lw=0.8, label="ideal")
    panel.set_xscale("log", base=2)
    panel.set_yscale("log", base=2)
    panel.set_xticks(nodes, nodes)
    ticks = [2.0**n for n in range(-8, 15, 2) if 2.0**n <= 2 * max(each["speedup_upper"] for each in here)]
    panel.set_yticks(ticks, [f"{tick:g}" if tick >= 1 else f"1/{1 / tick:g}" for tick in ticks])
    panel.set_ylim(0.7 * min(each["speedup_lower"] for each in here), 1.5 * max(each["speedup_upper"] for each in here))
    panel.set_xlabel("nodes")
    panel.legend(loc="upper left", ncols=2)


def _bounds(panel: Axes, here: Sequence[Mapping[str, Any]]) -> None:
    colours = {"bandwidth": "#cfe3f2", "storage": "#f4d9c2", "root": "#f3c4c0", "latency": "#e2e2e2"}
    sizes, nodes = (sorted({each[name] for each in here}) for name in ("nbytes", "nodes"))
    for each in here:
        x, y = nodes.index(each["nodes"]), sizes.index(each["nbytes"])
        panel.add_patch(plt.Rectangle((x - 0.5, y - 0.5), 1, 1, color=colours[each["bound"]], lw=0))
        panel.text(x, y, _seconds(each["wall_s"]), ha="center", va="center", fontsize=7)
    panel.set_xlim(-0.5, len(nodes) - 0.5)
    panel.set_ylim(-0.5, len(sizes) - 0.5)
    panel.set_xticks(range(len(nodes)), nodes)
    panel.set_yticks(range(len(sizes)), [bytes_text(nbytes) for nbytes in sizes])
    panel.set_xlabel("nodes")
    panel.grid(False)
    seen = [bound for bound in colours if any(each["bound"] == bound for each in here)]
    names = {"bandwidth": "memory bandwidth", "root": "root and its link", "latency": "latency and hand-out"}
    marks = [plt.Rectangle((0, 0), 1, 1, color=colours[bound]) for bound in seen]
    panel.legend(marks, [names.get(bound, bound) for bound in seen], loc="upper center", ncols=4,
                 bbox_to_anchor=(0.5, -0.16))  # fmt: skip


def _seconds(value: float) -> str:
    if value < 0.1:
        return f"{1e3 * value:.0f} ms"
    return f"{value:.1f}" if value < 10 else f"{value:,.0f}"
