"""Compare the speed-up curves of two runs, point by point.

Usage: python loadtests/compare.py BEFORE/curves.json AFTER/curves.json [--least 1.1]

A point is called faster or slower only where the medians differ by more than the least ratio and the middle halves of
the rounds do not overlap. That leaves what a shared machine does by itself mostly out; run each side twice, and compare
the two runs of one side first, to see what is left of it.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from tools.results import Point, read_json


@dataclass(frozen=True)
class Change:
    """One point in two runs: walls in milliseconds, before over after, and what that means."""

    name: str
    before_ms: float
    after_ms: float
    ratio: float
    verdict: str


def compare(before: Mapping[str, Any], after: Mapping[str, Any], least: float) -> list[Change]:
    """Compare all points that both runs have.

    Args:
        before: results as `curves.json` holds them.
        after: the same of the other run.
        least: ratio from which on medians differ.

    Raises:
        ValueError: the runs have no point in common.
    """
    old, new = (_by_name(plain) for plain in (before, after))
    common = [name for name in old if name in new]
    if not common:
        raise ValueError("results: the two runs have no point in common")
    return [_change(name, old[name], new[name], least) for name in common]


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Say where the machines differ, other than in time and load."""
    old, new = before["machine"], after["machine"]
    names = sorted((old.keys() | new.keys()) - {"when", "load_average"})
    return [f"{n}: {old.get(n)} before, {new.get(n)} after" for n in names if old.get(n) != new.get(n)]


def _by_name(plain: Mapping[str, Any]) -> dict[str, Point]:
    points = [Point.of(each) for each in plain["points"]]
    return {f"{p.scaling} {p.engine} {p.workers} {p.norm} {p.nbytes}": p for p in points}


def _change(name: str, old: Point, new: Point, least: float) -> Change:
    old_lower, before, old_upper = old.wall_ms
    new_lower, after, new_upper = new.wall_ms
    ratio, verdict = before / after, ""
    if ratio > least and new_upper < old_lower:
        verdict = "faster"
    elif ratio < 1 / least and new_lower > old_upper:
        verdict = "slower"
    return Change(name, before, after, ratio, verdict)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--least", type=float, default=1.1, help="ratio from which on medians differ")
    given = parser.parse_args()
    before, after = read_json(given.before), read_json(given.after)
    if not before or not after:
        parser.error(f"no such file: {given.after if before else given.before}")
    console = Console()
    for line in differences(before, after):
        console.print(f"differs in {line}", highlight=False)
    table = Table("point", "before ms", "after ms", "before / after", "")
    for each in compare(before, after, given.least):
        style = {"faster": "green", "slower": "red"}.get(each.verdict)
        row = (f"{each.before_ms:.2f}", f"{each.after_ms:.2f}", f"{each.ratio:.2f}", each.verdict)
        table.add_row(each.name, *row, style=style)
    console.print(table)


if __name__ == "__main__":
    main()
