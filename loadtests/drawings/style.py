"""What all pictures share: colours, names, and how they are saved."""

from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

INK, GRID = "#222222", "#dddddd"
COLOURS = {"inline": "#1b6ca8", "ray": "#d1671c", "floor": "#777777", "good": "#2a7f4f", "bad": "#b3261e"}
plt.rcParams.update(
    {
        "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": GRID,
        "axes.axisbelow": True, "axes.edgecolor": INK, "axes.titlesize": 10, "axes.titleweight": "bold",
        "legend.frameon": True, "legend.framealpha": 0.85, "legend.edgecolor": "none", "legend.fontsize": 8,
        "svg.fonttype": "none", "svg.hashsalt": "normtree",
        "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans", "Helvetica", "Arial", "sans-serif"],
    }
)  # fmt: skip


def save(figure: Figure, path: Path) -> None:
    """Write the figure as SVG and as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    figure.savefig(path.with_suffix(".png"), dpi=110)
    plt.close(figure)
