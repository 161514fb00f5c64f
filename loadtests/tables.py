"""The tables of README.md, made from results/*.json: no figure in them is typed by hand.

Usage: python loadtests/tables.py            # write them into README.md
       python loadtests/tables.py --check    # only tell whether they are there

Each stands between two marks, ``<!-- NAME -->`` and ``<!-- /NAME -->``.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from tools.results import FOLDER, Point, read_json
from tools.words import MIB, NAMES, bytes_text

README = Path(__file__).with_name("README.md")
SHOWN_SHARES = (0.1, 0.5, 0.8, 1.0, 1.5, 3.0)
LEAST_BYTES = 4 * MIB  # of the table of speed-ups; what is below is among the losses

HELD = {
    "anonymous_mib": "MiB of memory",
    "segments": "segments",
    "descriptors": "descriptors",
    "processes": "processes",
}

Plain = Mapping[str, Any]


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def ms(value: float | None) -> str:
    """Milliseconds with three digits; a dash for none."""
    return "–" if value is None else f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def machine(plain: Plain) -> str:
    """On what, and when, a part was measured."""
    about = plain["machine"]
    load = about["load_average"][0]
    words = f"{about['when'][:10]}, {about['processor']}, {about['cores']} cores, {about['memory_gib']:g} GiB"
    words += f", load average {load:g} at the start"
    return f"*{words}{'; ' + about['note'] if 'note' in about else ''}.*"


def curves(plain: Plain) -> str:
    points = [Point.of(each) for each in plain["points"] if each["scaling"] == "strong"]
    most = max(point.workers for point in points)
    sizes = sorted({point.nbytes for point in points if point.nbytes >= LEAST_BYTES})
    found = {(p.norm, p.engine, p.nbytes): p for p in points if p.workers == most}
    rows = [
        [f"`{norm}`", NAMES[engine], *(_speedup(found[norm, engine, size]) for size in sizes)]
        for norm, engine in dict.fromkeys((p.norm, p.engine) for p in points)
    ]
    return table(["norm", "engine", *map(bytes_text, sizes)], rows)


def _speedup(point: Point) -> str:
    lower, middle, upper = point.speedups
    return f"{middle:.2f} ({lower:.2f} to {upper:.2f})"


def losses(plain: Plain) -> str:
    """Where all workers together are slower than the best serial program, or far from the memory's floor."""
    points = [Point.of(each) for each in plain["points"] if each["scaling"] == "strong"]
    most, largest = max(p.workers for p in points), max(p.nbytes for p in points)
    rows = []
    for norm, engine in dict.fromkeys((p.norm, p.engine) for p in points):
        line = [p for p in points if (p.norm, p.engine, p.workers) == (norm, engine, most)]
        slower = [p for p in line if p.speedups[1] < 1]
        least = f"{min(p.speedups[1] for p in slower):.2f}" if slower else "–"
        last = bytes_text(max(p.nbytes for p in slower)) if slower else "nowhere"
        end = max(line, key=lambda p: p.nbytes)
        rows.append(
            [f"`{norm}`", NAMES[engine], last, least, ms(end.wall_ms[1]), f"{end.wall_ms[1] / end.floor_ms:.2f}"]
        )
    head = ("norm", "engine", f"{most} workers slower than one thread up to", "least speed-up",
            f"wall of {bytes_text(largest)}, ms", "over the memory's floor")  # fmt: skip
    return table(head, rows)


def predict(plain: Plain) -> str:
    rows = []
    for engine in ("inline", "ray"):
        cases = [case for case in plain["cases"] if case["mib"] >= 1]
        off = sorted(abs(case[engine]["ratio"] - 1) for case in cases)
        rows.append([NAMES[engine], len(off), f"{median(off):.0%}", f"{off[-1]:.0%}"])
    worst = max(plain["cases"], key=lambda case: case["auto_over_best"])
    told = (f"`auto` took {worst['auto_over_best']:.2f} times the better engine's wall at worst "
            f"(`{worst['norm']}` on axes `{worst['axes']}`, {worst['mib']:g} MiB).")  # fmt: skip
    return table(("engine", "tensors of 1 MiB and more", "off at the median", "at worst"), rows) + "\n\n" + told


def latency(plain: Plain) -> str:
    rows = [
        [curve["name"], f"{rate['share']:g}", f"{rate['offered_per_s']:.0f}", f"{rate['goodput_per_s']:.0f}",
         *(ms(rate[name]) for name in ("p50_ms", "p99_ms", "p999_ms")), _refused(rate), rate["unanswered"],
         f"{rate['generator_cpu']:.2f}"]
        for curve in plain["curves"] for rate in curve["rates"] if rate["share"] in SHOWN_SHARES
    ]  # fmt: skip
    return table(("tensor", "of capacity", "offered/s", "right/s", "p50 ms", "p99 ms", "p99.9 ms", "refused",
                  "unanswered", "generator's cores"), rows)  # fmt: skip


def _refused(rate: Plain) -> str:
    return ", ".join(f"{count:,} as {status}" for status, count in rate["rejected_as"].items()) or "0"


def users(plain: Plain) -> str:
    rows = [[f["name"], f"{f['requests']:,}", f["failures"], *(ms(f[name]) for name in ("p50_ms", "p90_ms", "p99_ms"))]
            for f in plain["flows"]]  # fmt: skip
    return table(("request", "count", "failures", "p50 ms", "p90 ms", "p99 ms"), rows)


def nodes(plain: Plain) -> str:
    runs = {(run["gbit_s"], run["delay_ms"], run["way"]): run for run in plain["runs"]}
    rows = []
    for wire in plain["wires"]:
        where, is_ = (wire["gbit_s"], wire["round_trip_ms"]), wire["is"]
        tree, tensor = runs[(*where, "tree")], runs[(*where, "tensor")]
        rows.append([f"{where[0]:g} Gb/s, {where[1]:g} ms", f"{is_['gbit_s']:.1f} Gb/s, {is_['round_trip_ms']:.1f} ms",
                     *(f"{ms(run['wall_ms'])} ms, {run['wire_bytes'] / 1e6:.2f} MB" for run in (tree, tensor)),
                     f"{tensor['wall_ms'] / tree['wall_ms']:.1f}"])  # fmt: skip
    return table(("wire", "what it carried", "moving the tree", "shipping the tensor", "times slower"), rows)


def simulation(plain: Plain) -> str:
    rows = [[row["against"], row["runs"], f"{row['median']:.0%}", f"{row['worst']:.0%}"] for row in plain["validation"]]
    checked = table(("the model against", "points", "off at the median", "at worst"), rows)
    scales = [each for each in plain["scales"] if each["norm"] == "l1,linf"]
    many = sorted({each["nodes"] for each in scales})[::2]
    found = {(each["nbytes"], each["nodes"]): each for each in scales}
    sizes = dict.fromkeys(each["nbytes"] for each in scales)
    cells = [
        [bytes_text(n), *(f"{_seconds(found[n, m]['wall_s'])}, {found[n, m]['bound']}" for m in many)] for n in sizes
    ]
    return checked + "\n\n" + table(("tensor, `l1,linf`", *(f"{m} node{'s' * (m > 1)}" for m in many)), cells)


def _seconds(value: float) -> str:
    return f"{1e3 * value:.0f} ms" if value < 0.1 else f"{value:.3g} s" if value < 1000 else f"{value:,.0f} s"


def chaos(plain: Plain) -> str:
    rows = [[f["fault"], *(sum(f[kind].values()) for kind in ("right", "refused", "broken")), len(f["wrong"]),
             *("–" if f[name] is None else f"{f[name]:g} s" for name in ("slowest_s", "recovered_s")),
             "yes" if f["passed"] else "**no**", f["seen"]] for f in plain["faults"]]  # fmt: skip
    return table(("fault", "right", "refused", "broken", "wrong", "slowest right answer", "right again after",
                  "survived", "seen"), rows)  # fmt: skip


def soak(plain: Plain) -> str:
    jobs, served = plain["jobs"], plain["served_jobs"]
    held = ", ".join(f"{HELD[each['what']]} {each['early']:,.0f} then {each['late']:,.0f}"
                     for each in plain["growth"])  # fmt: skip
    verdict = "Passed" if plain["passed"] else "**Failed**"
    return (
        f"{plain['seconds'] / 60:.3g} minutes: {plain['sent']:,} requests, {len(plain['wrong'])} wrong answers, "
        f"{sum(plain['refused'].values())} refused, {sum(plain['broken'].values())} broken. "
        f"{jobs['done']} jobs from the command line ({jobs['killed']} killed and resumed), {len(jobs['lost'])} lost; "
        f"{served['done']} jobs over HTTP, {len(served['lost'])} lost. "
        f"Held in the second fifth of the time and then in the last: {held}. {verdict}."
    )


PICTURES = {
    "curves": {
        "speedup-by-size": "walls and speed-ups against size",
        "speedup-by-workers": "speed-ups against workers, and the laws beyond",
        "weak-scaling": "efficiency when the tensor grows with the workers",
    },
    "predict": {"predict": "measured over predicted walls"},
    "latency": {"latency": "latency, goodput and refusals against the offered rate"},
    "nodes": {"nodes": "walls and bytes on the wire"},
    "simulation": {
        "simulation": "simulated speed-up and its bounds",
        "simulation-check": "the model against what was measured",
    },
    "soak": {"soak": "memory, segments and descriptors over time"},
}

TABLES: Mapping[str, Callable[[Plain], str]] = {
    "curves": curves,
    "predict": predict,
    "latency": latency,
    "users": users,
    "nodes": nodes,
    "simulation": simulation,
    "chaos": chaos,
    "soak": soak,
    "losses": losses,
}


def block(name: str, folder: Path) -> str:
    """What stands between two marks: the table, on what it was measured, and the pictures."""
    plain = read_json(folder / f"{'curves' if name == 'losses' else name}.json")
    if not plain:
        return "Not measured here yet."
    about = [machine(plain)] if "machine" in plain and name != "losses" else []
    shown = [f"![{words}](results/{file}.png)" for file, words in PICTURES.get(name, {}).items()]
    return "\n\n".join([TABLES[name](plain), *about, *shown])


def filled(text: str, folder: Path) -> str:
    """Put the tables of a folder's results between their marks.

    Raises:
        ValueError: a mark is missing.
    """
    for name in TABLES:
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(f"README.md: wanted {begin} and {end} once each")
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n{block(name, folder)}\n{end}{rest.partition(end)[2]}"
    return text


def main() -> None:
    """Write the tables, or look whether they are there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; status 1 where README.md would change")
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of the results")
    given = parser.parse_args()
    before = README.read_text("utf-8")
    after = filled(before, given.results)
    if given.check:
        sys.exit(0 if before == after else "README.md does not agree with the results: run python loadtests/tables.py")
    README.write_text(after, "utf-8")


if __name__ == "__main__":
    main()
