"""One self-contained HTML page of all results: the pictures within it, tables beside them, no script, no network."""

from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from tools.results import Point, read_json, write
from tools.words import bytes_text

from drawings import pictures, simulation_pictures

STYLE = """
:root { color-scheme: light; --ink: #1c2126; --dim: #5b6570; --line: #d9dee3; --blue: #1b6ca8; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: #fff; margin: 0 auto; max-width: 1180px;
       padding: 24px 20px 80px; }
h1 { font-size: 28px; margin: 0 0 4px; } h2 { font-size: 20px; margin: 48px 0 8px; border-top: 1px solid var(--line);
     padding-top: 24px; }
h3 { font-size: 16px; margin: 24px 0 4px; }
p { max-width: 78ch; } .dim { color: var(--dim); }
img { width: 100%; height: auto; display: block; margin: 12px 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; margin: 8px 0 16px; }
th, td { padding: 3px 12px 3px 0; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } th { color: var(--dim); font-weight: 600; }
nav a { margin-right: 16px; color: var(--blue); } details > summary { cursor: pointer; color: var(--blue); }
.bad { color: #b3261e; font-weight: 600; } .good { color: #2a7f4f; }
"""

Section = Callable[[Path, Mapping[str, Any]], str]


def make(folder: Path) -> Path:
    """Draw every picture whose figures are there, and write the page.

    Args:
        folder: of the results.
    """
    found = [(name, title, section, read_json(folder / f"{name}.json")) for name, title, section in SECTIONS]
    there = [(name, title, section, plain) for name, title, section, plain in found if plain]
    links = "".join(f'<a href="#{name}">{escape(title)}</a>' for name, title, _, _ in there)
    body = "".join(
        f'<h2 id="{name}">{escape(title)}</h2>{about(plain)}{section(folder, plain)}'
        for name, title, section, plain in there
    )
    lead = "<p class=dim>normtree under load: what parallelism buys, where it ends, and what happens beyond.</p>"
    page = folder / "report.html"
    write(
        page,
        f'<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width">'
        f"<title>normtree under load</title><style>{STYLE}</style>"
        f"<h1>normtree under load</h1>{lead}<nav>{links}</nav>{body}</html>\n",
    )
    return page


def about(plain: Mapping[str, Any]) -> str:
    """The machine, in one line that opens to all that is known of it."""
    machine = plain.get("machine", {})
    rows = [(name, str(value)) for name, value in machine.items()]
    short = f"{machine.get('processor')}, {machine.get('cores')} cores, {machine.get('when')}"
    short += f"; {machine['note']}" if "note" in machine else ""
    return f"<details><summary>{escape(short)}</summary>{table(('', ''), rows)}</details>"


def picture(path: Path, words: str) -> str:
    """A picture within the page."""
    data = b64encode(path.with_suffix(".svg").read_bytes()).decode()
    return f'<img alt="{escape(words)}" src="data:image/svg+xml;base64,{data}">'


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; floats with three significant digits, None as a dash."""

    def cell(value: object) -> str:
        if value is None:
            return "–"
        if isinstance(value, float):
            return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
        if isinstance(value, bool):
            return "<span class=good>yes</span>" if value else "<span class=bad>no</span>"
        return escape(str(value))

    lines = "".join("<tr>" + "".join(f"<td>{cell(value)}</td>" for value in row) + "</tr>" for row in rows)
    heads = "".join(f"<th>{escape(name)}</th>" for name in head)
    return f"<div class=wide><table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>"


def curves(folder: Path, plain: Mapping[str, Any]) -> str:
    points = [Point.of(each) for each in plain["points"]]
    pictures.by_size(points, folder / "speedup-by-size")
    pictures.by_workers(points, plain["fits"], folder / "speedup-by-workers")
    pictures.weak(points, folder / "weak-scaling")
    lost = [(p.engine, p.workers, p.norm, bytes_text(p.nbytes), p.wall_ms[1], p.speedups[1]) for p in points
            if p.scaling == "strong" and p.workers > 1 and p.speedups[1] < 1]  # fmt: skip
    many = sum(p.scaling == "strong" and p.workers > 1 for p in points)
    fits = [(f["engine"], f["norm"], bytes_text(f["nbytes"]), _interval(f["fit"]["serial"]),
             _interval(f["fit"]["contention"]), _interval(f["fit"]["coherency"]), f["fit"]["spare"])
            for f in plain["fits"]]  # fmt: skip
    rows = [(p.scaling, p.engine, p.workers, p.norm, bytes_text(p.nbytes), len(p.walls_ms), *p.wall_ms,
             p.row()["serial_ms"], p.floor_ms, p.speedups[1], p.speedups[1] / p.workers, p.predicted_ms)
            for p in points]  # fmt: skip
    heads = ("scaling", "engine", "workers", "norm", "tensor", "rounds", "wall, lower quartile ms", "median ms",
             "upper ms", "serial ms", "floor ms", "speed-up", "efficiency", "plan said ms")  # fmt: skip
    return "".join(
        (
            "<p>Walls and speed-ups over the best serial program; the grey floor is what as many threads need to read "
            "the tensor twice and write it once. Bands are the middle half of the rounds.</p>",
            picture(folder / "speedup-by-size", "walls and speed-ups against size"),
            "<h3>Against workers, with Amdahl's law and the Universal Scalability Law</h3>",
            picture(folder / "speedup-by-workers", "speed-ups against workers"),
            "<h3>Weak scaling</h3>",
            picture(folder / "weak-scaling", "efficiency when the tensor grows with the workers"),
            f"<details><summary>Where more workers are slower than one thread: {len(lost)} of {many} points</summary>",
            table(("engine", "workers", "norm", "tensor", "wall ms", "speed-up"), lost),
            "</details><details><summary>Fits</summary>",
            "<p>Values with the middle nine tenths of fits to re-drawn rounds. Without spare points the USL cannot "
            "tell contention from coherency, and both laws are one.</p>",
            table(("engine", "norm", "tensor", "Amdahl serial", "USL sigma", "USL kappa", "spare points"), fits),
            "</details><details><summary>All points</summary>",
            table(heads, rows),
            "</details>",
        )
    )


def latency(folder: Path, plain: Mapping[str, Any]) -> str:
    pictures.latency(plain["curves"], folder / "latency")
    heads = ("of capacity", "offered/s", "right/s", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "worst ms",
             "refused (told when)", "unanswered", "wrong, failed", "generator's cores",
             "late, p99 ms")  # fmt: skip

    def row(rate: Mapping[str, Any]) -> list[object]:
        kinds = ", ".join(f"{count:,} as {status}" for status, count in rate["rejected_as"].items())
        refused = f"{kinds} ({rate['told_when']:,})" if kinds else "0"
        names = ("share", "offered_per_s", "goodput_per_s", "p50_ms", "p90_ms", "p99_ms", "p999_ms", "worst_ms")
        bad = f"{rate['wrong']}, {rate['failed']}"
        rest = (rate["generator_cpu"], rate["generator_late_p99_ms"])
        return [*(rate[name] for name in names), refused, rate["unanswered"], bad, *rest]

    parts = [
        f"<h3>{escape(curve['name'])}: {bytes_text(curve['body_bytes'] // 1024 * 1024)} a request, "
        f"capacity {curve['capacity_per_s']:.0f}/s</h3>" + table(heads, map(row, curve["rates"]))
        for curve in plain["curves"]
    ]
    return (
        "<p>Open loop: every request has an intended time drawn beforehand, and its latency counts from there. A dash "
        "is a percentile that fewer than ten requests would decide. The service may hold 256 MiB of tensors and lets "
        "16 requests wait: small tensors never fill that and queue, large ones do, and the rest is refused with 503. "
        "The third service bounds each client's rate, and refuses what is beyond it with 429. Whoever is still "
        "without an answer 5 s after the end is counted as unanswered.</p>"
        + picture(folder / "latency", "latency and goodput against offered rate")
        + "".join(parts)
    )


def soak(folder: Path, plain: Mapping[str, Any]) -> str:
    pictures.soak(plain["samples"], folder / "soak")
    counts = [(kind, name, count) for kind in ("right", "refused", "broken") for name, count in plain[kind].items()]
    grown = [(g["what"], g["early"], g["late"], g["allowed"], g["flat"]) for g in plain["growth"]]
    verdict = "passed" if plain["passed"] else "failed"
    jobs = plain["jobs"]
    counted = f"{plain['sent']:,} requests, {len(plain['wrong'])} wrong answers"
    beside = f"{jobs['done']} jobs done beside it, {jobs['killed']} killed and resumed, {len(jobs['lost'])} lost"
    served = plain["served_jobs"]
    beside += f"; {served['done']} jobs done by it, {len(served['lost'])} lost"
    kind = "good" if plain["passed"] else "bad"
    minutes = f"{plain['seconds'] / 60:.1f} minutes of mixed load"
    return (
        f"<p>{minutes}, {counted}; {beside}: <span class={kind}>{verdict}</span>.</p>"
        + picture(folder / "soak", "memory, segments and descriptors over time")
        + table(("held", "second fifth", "last fifth", "may grow by", "flat"), grown)
        + "<details><summary>Answers</summary>"
        + table(("kind", "request", "count"), [(k, n, c) for k, n, c in counts])
        + "</details>"
    )


def chaos(folder: Path, plain: Mapping[str, Any]) -> str:
    heads = ("fault", "right", "refused", "broken", "wrong", "slowest right answer, s", "right again after, s",
             "passed", "what was seen")  # fmt: skip
    rows = [(f["fault"], *(sum(f[kind].values()) for kind in ("right", "refused", "broken")), len(f["wrong"]),
             f["slowest_s"], f["recovered_s"], f["passed"], f["seen"]) for f in plain["faults"]]  # fmt: skip
    return (
        "<p>Faults while a mixed load runs. Refused are 429, 503 and 504; broken are connections. Right again after "
        "counts from the fault's end.</p>"
    ) + table(heads, rows)


def nodes(folder: Path, plain: Mapping[str, Any]) -> str:
    pictures.nodes(plain["runs"], folder / "nodes")
    heads = ("link", "delay ms", "nodes", "tensor", "way", "wall ms", "lower ms", "upper ms", "on the wire, bytes",
             "share of tensor")  # fmt: skip
    rows = [(r["link"], r["delay_ms"], r["nodes"], bytes_text(r["nbytes"]), r["way"], r["wall_ms"],
             r["lower_ms"], r["upper_ms"], float(r["wire_bytes"]), f"{r['wire_bytes'] / r['nbytes']:.2%}")
            for r in plain["runs"]]  # fmt: skip
    return (
        f"<p>{escape(plain['method'])}</p>"
        + picture(folder / "nodes", "walls and bytes on the wire by network")
        + table(heads, rows)
    )


def simulation(folder: Path, plain: Mapping[str, Any]) -> str:
    simulation_pictures.simulation(plain, folder / "simulation")
    simulation_pictures.checks(plain, folder / "simulation-check")
    parameters = [(p["name"], p["value"], p["lower"], p["upper"], p["unit"], p["source"]) for p in plain["parameters"]]
    checked = [(v["against"], v["runs"], f"{v['median']:.0%}", f"{v['worst']:.0%}") for v in plain["validation"]]
    bounds = [(bytes_text(r["nbytes"]), r["nodes"], r["where"], r["wall_s"], r["lower_s"], r["upper_s"],
               r["speedup"], r["bound"]) for r in plain["scales"]]  # fmt: skip
    return "".join(
        (
            "<p>The cost model carried beyond this machine. Nothing here was measured at scale: bands hold the "
            "middle nine tenths of walls drawn from the parameters' own spread.</p>",
            picture(folder / "simulation", "simulated speed-up and what bounds it"),
            "<h3>Against what was measured</h3>",
            "<p>Walls of moving the tree over two nodes were not fitted to: the other requests beside them were.</p>",
            picture(folder / "simulation-check", "the model against what was measured"),
            table(("against", "runs", "median error", "worst error"), checked),
            "<h3>Parameters</h3>",
            table(("parameter", "value", "lower", "upper", "unit", "source"), parameters),
            "<details><summary>Scales</summary>",
            table(("tensor", "nodes", "where", "wall s", "lower s", "upper s", "speed-up", "bound"), bounds),
            "</details>",
        )
    )


def predict(folder: Path, plain: Mapping[str, Any]) -> str:
    pictures.predict(plain["cases"], folder / "predict")
    heads = ("tensor", "norm", "axes", "threads: plan said ms", "took ms", "ratio", "Ray: plan said ms", "took ms",
             "ratio", "auto took", "its wall over the better one's")  # fmt: skip
    rows = [(f"{case['mib']:g} MiB", case["norm"], case["axes"],
             *(case[engine][name] for engine in ("inline", "ray") for name in ("predicted_ms", "measured_ms", "ratio")),
             case["auto"], case["auto_over_best"]) for case in plain["cases"]]  # fmt: skip
    return (
        "<p>What a plan says beforehand against what the projection then takes, both engines in turn.</p>"
        + picture(folder / "predict", "measured over predicted walls against size")
        + table(heads, rows)
    )


def users(folder: Path, plain: Mapping[str, Any]) -> str:
    heads = ("request", "count", "failures", "requests/s", "p50 ms", "p90 ms", "p99 ms", "worst ms")
    names = ("name", "requests", "failures", "per_s", "p50_ms", "p90_ms", "p99_ms", "worst_ms")
    return f"<p>{escape(plain['method'])}</p>" + table(heads, [[f[n] for n in names] for f in plain["flows"]])


def _interval(value: Mapping[str, float]) -> str:
    return f"{value['value']:.3f} ({value['lower']:.3f} to {value['upper']:.3f})"


SECTIONS: tuple[tuple[str, str, Section], ...] = (
    ("curves", "Speed-up", curves),
    ("predict", "Plans against walls", predict),
    ("latency", "Latency under load", latency),
    ("users", "User flows", users),
    ("nodes", "Several nodes", nodes),
    ("simulation", "Beyond this machine", simulation),
    ("chaos", "Chaos", chaos),
    ("soak", "Soak", soak),
)
