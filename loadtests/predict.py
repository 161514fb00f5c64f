"""How well plans foretell their walls, and whether ``auto`` takes the better engine: 64 KiB to 1 GiB, both engines.

    python loadtests/predict.py [--sizes 0.0625,1,16,256] [--budget 75]

Measures the machine, then runs every plan in turn with its rivals, and writes ``results/predict.json`` and
``results/predict.md``.
"""

import argparse
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.machine import describe
from tools.results import FOLDER, write, write_json

from normtree.commands.bench import Foretold, Trial
from normtree.engine.profile.machine_profile import MIB
from normtree.engine.projector import Projector
from normtree.settings import Settings

SIZES_MIB = (1 / 16, 1 / 4, 1, 4, 16, 64, 256, 1024)
BALLS = (("l1,linf", "0,1"), ("l1,l1", "0,1"), ("l1,l2", "1,0"))
FORETOLD_FROM_MIB = 1
BUDGET_S = 110.0
WITHIN, NEVER_OVER = 0.25, 1.15
WARM_UP = "kernels compiled, a first run of every case"


@dataclass(frozen=True)
class Case:
    """One tensor and ball on both engines, and which one ``auto`` took."""

    mib: float
    inline: Foretold
    ray: Foretold
    auto: str

    @property
    def auto_over_best(self) -> float:
        """Wall of the engine taken over that of the better one."""
        taken = self.ray if self.auto == "ray" else self.inline
        return taken.measured_ms / min(self.inline.measured_ms, self.ray.measured_ms)

    def row(self) -> dict[str, object]:
        """Plain values, for JSON."""
        plan = self.inline.plan
        return {
            "mib": self.mib, "shape": plan.shape, "norm": plan.norm.text, "axes": plan.norm.axes_text,
            **{
                engine: {
                    "workers": found.plan.workers, "predicted_ms": round(found.plan.predicted_ms[found.plan.engine], 3),
                    "measured_ms": round(found.measured_ms, 3), "ratio": round(found.ratio, 3),
                }
                for engine, found in (("inline", self.inline), ("ray", self.ray))
            },
            "auto": self.auto, "auto_over_best": round(self.auto_over_best, 3),
        }  # fmt: skip


def shape_of(mib: float) -> tuple[int, int]:
    """A matrix of about that size, a little wider than high, with no power of two in it."""
    elements = int(mib * MIB) // 4
    rows = max(1, math.isqrt(elements) * 7 // 8)
    return rows, elements // rows


def run(projector: Projector, sizes: Sequence[float], budget_s: float) -> list[Case]:
    """Run all that the time permits, small sizes first."""
    end_s, cases = time.monotonic() + budget_s, []
    for mib in sizes:
        for norm, axes in BALLS:
            if time.monotonic() > end_s:
                print(f"no time for {norm} {axes} of {mib:g} MiB")
                continue
            with Trial.of(projector, shape_of(mib), norm, axes) as trial:
                auto = trial.plan("auto").engine
                inline, ray = trial.run([trial.plan("inline"), trial.plan("ray")])
            cases.append(Case(mib, inline, ray, auto))
    return cases


def page(cases: list[Case], profile: dict[str, object]) -> str:
    """What was found, losses first."""
    machine = profile["machine"]
    assert isinstance(machine, dict)
    lines = [
        "# Predicted and measured", "",
        f"{machine['processor']}, {machine['cores']} cores; float32 noise, radius 0.3 of the norm; medians of 3 to 15 "
        "runs, engines in turn.", "",
        *summary(cases), "",
        "| MiB | norm | axes | inline: workers, predicted, measured ms | ratio | Ray | ratio | auto | over best |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for case in cases:
        cells = [
            cell
            for found in (case.inline, case.ray)
            for cell in (
                f"{found.plan.workers}, {found.plan.predicted_ms[found.plan.engine]:.2f}, {found.measured_ms:.2f}",
                f"{found.ratio:.2f}",
            )
        ]
        norm = case.inline.plan.norm
        over = f"{case.auto_over_best:.2f}"
        lines.append(f"| {' | '.join([f'{case.mib:g}', norm.text, norm.axes_text, *cells, case.auto, over])} |")
    return "\n".join(lines) + "\n"


def summary(cases: list[Case]) -> list[str]:
    """The two figures: how far off at the median, and how much ``auto`` lost."""
    lines = []
    for engine in ("inline", "ray"):
        off = [abs(getattr(case, engine).ratio - 1) for case in cases if case.mib >= FORETOLD_FROM_MIB]
        if off:
            lines.append(
                f"- {engine}: predictions off by {statistics.median(off):.0%} at the median, {max(off):.0%} at most, "
                f"of {len(off)} from {FORETOLD_FROM_MIB} MiB on (wanted: median within {WITHIN:.0%})"
            )
    worst = max(cases, key=lambda case: case.auto_over_best)
    over = sum(case.auto_over_best > NEVER_OVER for case in cases)
    lines.append(
        f"- auto: {worst.auto_over_best:.2f} times the better engine at worst ({worst.inline.plan.norm.text} of "
        f"{worst.mib:g} MiB); {over} of {len(cases)} over {NEVER_OVER}"
    )
    return lines


def measure(sizes: Sequence[float], budget_s: float) -> tuple[dict[str, object], list[Case]]:
    """Measure the machine, then run all that the time permits."""
    start = time.monotonic()
    with Projector.start(Settings(arena_bytes=4 << 30)) as projector:
        profile = projector.measure().as_dict()
        return profile, run(projector, sizes, budget_s - (time.monotonic() - start))


def save(folder: Path, about: dict[str, object], profile: dict[str, object], cases: list[Case]) -> None:
    """Write the results; ``about`` is what `machine.describe` told before them."""
    plain = {"machine": about, "profile": profile, "cases": [case.row() for case in cases]}
    write_json(folder / "predict.json", plain)
    write(folder / "predict.md", page(cases, profile))


def main() -> None:
    """Measure, write, tell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default=",".join(map(str, SIZES_MIB)), help="MiB, by commas")
    parser.add_argument("--budget", type=float, default=BUDGET_S, help="seconds")
    arguments = parser.parse_args()
    about = describe(WARM_UP)
    profile, cases = measure([float(size) for size in arguments.sizes.split(",")], arguments.budget)
    save(FOLDER, about, profile, cases)
    print("\n".join(summary(cases)))


if __name__ == "__main__":
    main()
