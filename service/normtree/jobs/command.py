"""``normtree job``: what a person sees of a job on a terminal."""

import re
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from normtree.jobs.progress import Progress, Watch
from normtree.jobs.recipe import read_recipe
from normtree.jobs.report.outcome import JobOutcome
from normtree.jobs.run import JobOptions, plan_job, run_job
from normtree.text.printable import printable, printable_lines

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
_SHOWN_TENSORS = 40


def parse_bytes(text: str) -> int:
    """Read a size: ``512MiB``, ``2G``, ``1048576``.

    Raises:
        ValueError: it is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]i?|)b?", text.strip().lower())
    if not found or not float(found[1]):
        raise ValueError(f"memory: wanted a size such as 512MiB or 2G, got {text!r}")
    return int(float(found[1]) * _UNITS[found[2]])


def options(workers: int | None, memory: str | None, engine: str, address: str | None) -> JobOptions:
    """Check what was given on the command line.

    Raises:
        ValueError: an engine or a size that is none.
    """
    if engine not in ("auto", "inline", "ray"):
        raise ValueError(f"engine: wanted one of auto, inline, ray, got {engine!r}")
    if address is not None and engine == "inline":
        raise ValueError("address: an inline job runs in this process; leave out --engine or the address")
    memory_bytes = None if memory is None else parse_bytes(memory)
    return JobOptions(workers, memory_bytes, engine, address)  # type: ignore[arg-type]


def show_plan(console: Console, path: Path, options: JobOptions) -> None:
    """Print what a job would do."""
    from normtree.jobs.estimate import predict

    plan = plan_job(read_recipe(path), options)
    console.print(printable_lines(str(plan)), highlight=False, markup=False, soft_wrap=True)
    console.print(predict(plan, options), highlight=False, markup=False, soft_wrap=True)


def run(console: Console, bars: Console, path: Path, options: JobOptions) -> None:
    """Run a job, with bars where it is watched on a terminal."""
    recipe = read_recipe(path)
    with _bars(bars) as bar:
        outcome = run_job(recipe, options, _watch(bar))
    console.print(_results(outcome))
    for note in outcome.notes:
        console.print(f"note: {printable(note)}", highlight=False, markup=False, soft_wrap=True)
    console.print(printable_lines(_closing(outcome)), highlight=False, markup=False, soft_wrap=True)


def _bars(console: Console) -> Bar:
    return Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[counts]}"),
        console=console,
        disable=not console.is_terminal,
    )


def _watch(bar: Bar) -> Watch:
    task = bar.add_task("projecting", total=None, counts="")

    def watch(progress: Progress) -> None:
        tensors = f"{progress.tensors_done}/{progress.tensors_total} tensors"
        counts = f"{tensors}, {progress.shards_done}/{progress.shards_total} shards"
        bar.update(task, total=progress.bytes_total, completed=progress.bytes_done, counts=counts)

    return watch


def _results(outcome: JobOutcome) -> Table:
    table = Table("tensor", "shape", "norm")
    for column in ("norm before", "after", "radius", "zero groups", "distance"):
        table.add_column(column, justify="right")
    for facts in outcome.facts[:_SHOWN_TENSORS]:
        zero = f"{facts.zero_groups[0]}/{facts.groups[0]}"
        numbers = (facts.norm_before, facts.norm_after, facts.radius)
        shape = "×".join(map(str, facts.shape))
        name = Text(printable(facts.name))
        table.add_row(name, shape, facts.norm, *(f"{n:.6g}" for n in numbers), zero, f"{facts.distance:.4g}")
    if len(outcome.facts) > _SHOWN_TENSORS:
        table.add_row(f"and {len(outcome.facts) - _SHOWN_TENSORS} more, in the report")
    return table


def _closing(outcome: JobOutcome) -> str:
    summary, nbytes = outcome.summary, outcome.plan.checkpoint.nbytes
    if outcome.was_completed:
        return f"this job was completed before; its report is in {outcome.state_url}"
    rate = nbytes / summary["wall_s"] / 1e9 if summary["wall_s"] else 0.0
    nodes = "1 node" if summary["nodes"] == 1 else f"{summary['nodes']} nodes"
    again = "not counted" if summary["retries"] is None else summary["retries"]
    how = f"{summary['workers']} workers on {summary['engine']}, {nodes}; tasks run again: {again}"
    return (
        f"{nbytes:,} bytes in {summary['wall_s']:.2f} s ({rate:.2f} GB/s; {how}; {summary['start_s']:.1f} s to start)\n"
        f"report: {outcome.state_url}/report.html and report.json"
    )
