"""The command line: ``normtree serve``, ``project``, ``plan``, ``bench``, ``warm``, ``key``, ``job`` and ``demo``."""

import json
import logging
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from io import TextIOWrapper
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from normtree import __version__
from normtree.errors import NormtreeError
from normtree.extras import ExtraMissing, has, missing
from normtree.keys.key import add_key
from normtree.keys.key import new_key as make_key
from normtree.processes.standard_streams import mute
from normtree.settings import Settings
from normtree.text.printable import printable, printable_lines

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from normtree.files.tensor_file import TensorFile

_BENCH_SHAPES = ((128, 128), (500, 500), (2000, 2000), (4000, 4000))
_ANY_RADIUS = 1.0  # times are the same for all
_TABLE_COLUMNS = 110  # tables are wider than a narrow terminal, and than a pipe's default

_NOT_MADE = "default_factory_not_called"  # for another setting was wrong, which is told

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Project weight tensors onto mixed-norm balls: whole rows, columns or filters become zero.",
)
keys = typer.Typer(no_args_is_help=True, help="Keys that open the service.")
app.add_typer(keys, name="key")
job = typer.Typer(no_args_is_help=True, help="Project a whole checkpoint by a recipe; killed jobs resume.")
app.add_typer(job, name="job")
console = Console(width=None if Console().width > _TABLE_COLUMNS else _TABLE_COLUMNS)
complaints = Console(stderr=True)

Norm = Annotated[str, typer.Option(help="Norms of the levels, outer to inner, of l1, l2, linf.")]
Axes = Annotated[
    str | None,
    typer.Option(help="Axes of the levels, outer to inner: '1,0' makes columns the groups, '0,1.2.3' filters."),
]
Split = Annotated[
    str | None,
    typer.Option(help="Axes seen as several before the axes are counted: '0:12' sees axis 0 as 12 times what is left."),
]
Radius = Annotated[float | None, typer.Option(help="Radius of the ball, in the units of the elements, >= 0.")]
Sparsity = Annotated[
    float | None, typer.Option(help="Instead of a radius: the share of each tensor's outermost groups to make zero.")
]
Groups = Annotated[
    int | None, typer.Option(help="Instead of a radius: how many of each tensor's outermost groups to keep, at most.")
]
Exact = Annotated[
    bool, typer.Option("--exact", help="The Euclidean projection: the nearest point, where a way to it is known.")
]
Workers = Annotated[int | None, typer.Option(help="Leaf tasks at once; default: the usable cores.")]


@contextmanager
def _told() -> Iterator[None]:
    """Turn what can go wrong into one line on standard error and exit status 2."""
    try:
        yield
    except ValidationError as error:
        for problem in error.errors(include_url=False):
            if problem["type"] != _NOT_MADE:
                _complain(_describe(problem))
        raise typer.Exit(2) from None
    except OSError as error:
        _complain(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error))
        raise typer.Exit(2) from None
    except (ExtraMissing, NormtreeError, ValueError) as error:
        _complain(str(error))
        raise typer.Exit(2) from None


def _need(command: str, *extras: str) -> None:
    """Say which extra a command lacks."""
    if error := missing(command, *extras):
        raise error


def _is_inline_only(engine: str | None) -> bool:
    """Tell whether a command does without Ray: it is not wanted, or not installed and not insisted on."""
    if engine == "ray":
        _need("--engine ray", "ray")
    return engine in (None, "inline") or not has("ray")


def _describe(problem: Any) -> str:
    """Say which setting is wrong, and what was given, but for keys."""
    where, got = ".".join(map(str, problem["loc"])), problem["input"]
    message = str(problem["ctx"]["error"]) if problem["type"] == "value_error" else problem["msg"]
    shown = f", got {got!r}" if isinstance(got, str | int | float) and where not in ("keys", "keys_file") else ""
    return f"{where}: {message}{shown}" if where and not message.startswith(f"{where}: ") else message


def _complain(message: str) -> None:
    try:
        complaints.print(f"normtree: {printable_lines(message)}", highlight=False, markup=False, soft_wrap=True)
    except OSError:  # a full disk, a reader that is gone: the exit status still tells
        mute(complaints.file)


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """Say the version where asked; what a terminal has no letter for is shown as ``?``, and ends nothing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    if version:
        console.print(__version__, highlight=False)
        raise typer.Exit
    if context.invoked_subcommand != "serve":  # which has a log of its own
        compiling = logging.getLogger("normtree.engine.kernels")
        compiling.setLevel(logging.INFO)
        compiling.addHandler(_COMPLAINTS)


class _Complaints(logging.Handler):
    """Tells what is logged as lines on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record's message."""
        _complain(record.getMessage())


_COMPLAINTS = _Complaints()


def _settings_help(options: Iterable[str]) -> str:
    r"""Tell of the settings that are no options, one a line, which "\b" asks of typer."""
    told = []
    for name, field in Settings.model_fields.items():
        if name not in options:
            default = "" if field.default_factory or field.default in (None, "") else f" Default: {field.default}."
            told.append(f"NORMTREE_{name.upper()}: {field.description}{default}")
    return "\n".join(["Options can be given in the environment too, as NORMTREE_<NAME>. Only there:\n\n\b", *told])


_SERVE_OPTIONS = ("host", "port", "workers", "ray_address", "inline_only", "keys_file", "insecure")


@app.command(epilog=_settings_help(_SERVE_OPTIONS))
def serve(
    host: Annotated[str | None, typer.Option(help="Address to bind; default 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="TCP port to bind; default 8000.")] = None,
    workers: Workers = None,
    ray_address: Annotated[str | None, typer.Option(help="Ray cluster to join; default: an embedded one.")] = None,
    inline_only: Annotated[bool | None, typer.Option("--inline-only", help="Run without Ray.")] = None,
    keys_file: Annotated[
        Path | None, typer.Option(help="File of the keys that open the service; see `normtree key new`.")
    ] = None,
    insecure: Annotated[
        bool | None, typer.Option("--insecure", help="Permit an address that other machines can reach, without keys.")
    ] = None,
) -> None:
    """Serve projections over HTTP."""
    given = (host, port, workers, ray_address, inline_only, keys_file, insecure)
    with _told():
        _need("serve", "service")
        from normtree.http.serve import serve as serve_http

        serve_http(_settings(**dict(zip(_SERVE_OPTIONS, given, strict=True))))


@app.command(epilog="normtree project w.npy out.npy --norm l1,linf --axes 1,0 --sparsity 0.9")
def project(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A .npy or .safetensors file.")],
    target: Annotated[
        Path, typer.Argument(metavar="OUT", help="Where to write: .npy for one tensor, or .safetensors.")
    ],
    radius: Radius = None,
    sparsity: Sparsity = None,
    groups: Groups = None,
    norm: Norm = "l1,linf",
    axes: Axes = None,
    split: Split = None,
    exact: Exact = False,
    tensor: Annotated[
        str | None,
        typer.Option(help="Regular expression (RE2) that a whole name must match; default: all that the norm fits."),
    ] = None,
    engine: Annotated[Literal["inline", "ray"], typer.Option(help="Threads of this process, or Ray.")] = "inline",
    workers: Workers = None,
    timing: Annotated[Path | None, typer.Option(help="Where to write the timings, as JSON.")] = None,
) -> None:
    """Project the tensors of a file, each onto its own ball; other tensors are kept as they are.

    The ball has the radius given, or the one that leaves the sparsity or the groups given: one of the three is wanted.
    Groups are what the outermost level counts: rows of a matrix, unless the axes say otherwise.
    """
    from normtree.engine.kernels import prepare
    from normtree.engine.projector import Projector
    from normtree.files.tensor_file import TensorFile, check_target, read_file, write_file
    from normtree.splits import parse_split
    from normtree_kernels.dtypes import check_dtype
    from normtree_kernels.norms.mixed_norm import MixedNorm
    from normtree_kernels.tree.goal import Goal

    with _told():
        check_target(target)
        wanted = Goal(radius, sparsity, groups)
        file = read_file(source)
        names = _select(file, tensor, (norm, axes, split), source)
        several = len(file.tensors) + len(file.opaque) > 1
        for name in names:
            with _named(name, several):  # what takes no engine to find, before one is started
                y = file.tensors[name]
                check_dtype(y.dtype, "tensor")
                seen = parse_split(split).seen(y.shape)
                wanted.check_fits(MixedNorm.parse(norm, axes, ndim=len(seen)), seen)
        goal = asdict(wanted)
        tensors, plans, timings, table = dict(file.tensors), {}, {}, _results_table()
        settings = _settings(workers=workers, inline_only=_is_inline_only(engine))
        with Projector.start(settings, warm="none") as projector:
            for name in names:
                y = tensors[name]
                with _named(name, several):
                    plans[name] = projector.plan(
                        y.shape, y.dtype.name, norm=norm, axes=axes, **goal, exact=exact, engine=engine, split=split
                    )
            prepare({each for plan in plans.values() for each in plan.kernels})
            for name in names:
                y = tensors[name]
                with _named(name, several):
                    x, timings[name] = projector.project_array(y, plans[name])
                tensors[name] = x
                table.add_row(
                    Text(printable(name)), "×".join(map(str, y.shape)), *_zeros(y, x), f"{timings[name].wall_ms:.1f}"
                )
        write_file(target, TensorFile(tensors, file.metadata, file.opaque, file.mode))
        if timing:
            timing.write_text(json.dumps({name: taken.as_dict() for name, taken in timings.items()}, indent=2))
        console.print(table)
        for name, taken in timings.items():
            if taken.warning:
                _complain(f"{name}: {taken.warning}" if several else taken.warning)


@app.command(epilog="normtree plan 30522x384 --norm l1,linf --axes 1,0")
def plan(
    shape: Annotated[str, typer.Argument(help="Lengths of the axes, such as 30522x384.")],
    radius: Radius = None,
    sparsity: Sparsity = None,
    groups: Groups = None,
    norm: Norm = "l1,linf",
    axes: Axes = None,
    split: Split = None,
    exact: Exact = False,
    dtype: Annotated[str, typer.Option(help="Element type.")] = "float32",
    engine: Annotated[
        Literal["auto", "inline", "ray"] | None,
        typer.Option(help="auto and ray start Ray, which takes a while; default: what is best without it."),
    ] = None,
    workers: Workers = None,
) -> None:
    """Print how a tensor of that shape would be projected, and the predicted time, without any data.

    Blocks, workers and engine follow from the shape and from this machine's profile, which is measured the first time
    and then kept; `normtree bench --profile` measures it anew. The engine line says why. No radius, sparsity or
    groups need be given, since the times are the same for all.
    """
    from normtree.engine.projector import Projector

    with _told():
        any_radius = radius is sparsity is groups is None
        if not re.fullmatch(r"\d+(x\d+)*", shape):
            raise ValueError(f"shape: wanted lengths such as 30522x384, got {shape!r}")
        lengths = tuple(int(length) for length in shape.split("x"))
        settings = _settings(workers=workers, inline_only=_is_inline_only(engine))
        with Projector.start(settings, warm="none") as projector:
            projector.measure_if_due()
            planned = projector.plan(
                lengths, dtype, norm=norm, axes=axes, radius=_ANY_RADIUS if any_radius else radius,
                sparsity=sparsity, groups=groups, exact=exact, engine=engine or "auto", split=split,
            )  # fmt: skip
            told = f"{planned}\n\nprofile    {projector.profile.circumstances}"
        if any_radius:
            told += "\nradius     none was given, and 1 stands for any: the times are the same for all"
        console.print(told, highlight=False, markup=False, soft_wrap=True)


@app.command()
def bench(
    profile: Annotated[bool, typer.Option("--profile", help="Measure the machine anew, and keep the profile.")] = False,
    engine: Annotated[Literal["inline", "ray"], typer.Option(help="inline, or ray to measure both.")] = "inline",
    workers: Workers = None,
) -> None:
    """Show how fast this machine is, and how well plans foretell their times.

    The memory bounds what any number of threads can do: where `64 MiB` on all threads is no faster than on one, a plan
    says `memory-bound`. What an engine adds is why small tensors stay `below break-even`.
    """
    from normtree.commands.bench import Trial, foretold_table, profile_tables
    from normtree.engine.projector import Projector

    with (
        _told(),
        Projector.start(_settings(workers=workers, inline_only=_is_inline_only(engine)), warm="none") as projector,
    ):
        if profile:
            projector.measure()
        projector.measure_if_due()
        for table in profile_tables(projector.profile):
            console.print(table)
        rows = []
        for shape in _BENCH_SHAPES:
            for norm in ("l1,linf", "l1,l1"):
                with Trial.of(projector, shape, norm) as trial:
                    rows += trial.run([trial.plan(each) for each in projector.profile.engines])
        console.print(foretold_table(rows))


@app.command()
def warm() -> None:
    """Compile the kernels that are not kept yet, so that no later command or service has to.

    Machine code is for the kind of processor that it was compiled on, and is kept beside the installation, or in the
    user's cache; with NUMBA_CACHE_DIR set, in that folder. Run this as the user who will run the others, or as root
    where all shall use it: files that anybody else could have written are not trusted.
    """
    from normtree.engine.kernels import ALL, load_kept, prepare, where_kept
    from normtree.engine.profile.units import size_text

    began_s = monotonic()
    place, kept = where_kept()
    if not kept:
        _complain(f"compiled kernels cannot be kept: {place}")
        raise typer.Exit(2)
    missing = load_kept(ALL)
    prepare(missing)
    nbytes = sum(file.stat().st_size for file in Path(place).glob("*.nbc"))
    console.print(
        f"{len(ALL)} groups of kernels, {len(missing)} of them compiled now: {monotonic() - began_s:.1f} s\n"
        f"kept in {printable(place)}: {size_text(nbytes)}",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip


@keys.command("new")
def new_key(
    name: Annotated[str, typer.Argument(help="Whose key it is; logs and limits go by it.")],
    keys_file: Annotated[Path | None, typer.Option(help="File to add it to, as `serve --keys-file` reads it.")] = None,
    admin: Annotated[
        bool, typer.Option("--admin", help="Let it see and end what others have made, too: jobs, regions, traces.")
    ] = False,
) -> None:
    """Make a key and print it, this once; only its hash is kept. A running service reads the file again by itself."""
    with _told():
        secret, key = make_key(name, admin)
        if keys_file:
            add_key(key, keys_file)
    console.print(f"key: {secret}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"line: {key}", highlight=False, markup=False, soft_wrap=True)


Recipe = Annotated[Path, typer.Argument(metavar="RECIPE", help="A TOML file; its paths are relative to its folder.")]
JobWorkers = Annotated[
    int | None,
    typer.Option(min=1, help="Tasks at once; default: the usable cores. Fewer where memory holds no more."),
]
Memory = Annotated[
    str | None,
    typer.Option(
        help="Bound of all buffers and aggregates together, such as 512MiB or 2G; default: 256 MiB a worker, at least "
        "512 MiB, more where a tensor wants it, and no more than half of the free memory."
    ),
]
JobEngine = Annotated[str, typer.Option(help="auto, inline (threads of this process) or ray.")]
Address = Annotated[
    str | None, typer.Option(help="Ray cluster whose nodes share the storage; 'auto' finds the one it runs in.")
]


@job.command("plan")
def plan_job(
    recipe: Recipe,
    workers: JobWorkers = None,
    memory: Memory = None,
    engine: JobEngine = "auto",
    address: Address = None,
) -> None:
    """Print what a job would do, how long it will take and how much memory; nothing is written."""
    from normtree.jobs.command import options, show_plan

    with _told():
        show_plan(console, recipe, options(workers, memory, engine, address))


@job.command("run")
def run_job(
    recipe: Recipe,
    workers: JobWorkers = None,
    memory: Memory = None,
    engine: JobEngine = "auto",
    address: Address = None,
) -> None:
    """Run a job, or go on with it where a run was killed."""
    from normtree.jobs.command import options, run

    with _told():
        run(console, complaints, recipe, options(workers, memory, engine, address))


@app.command()
def demo(
    weights: Annotated[Path | None, typer.Option(help="Your own .safetensors; default: the MiniLM checkpoint.")] = None,
    once: Annotated[bool, typer.Option("--once", help="Stop at the end instead of serving on.")] = False,
    port: Annotated[int, typer.Option(help="TCP port; 0 takes a free one.")] = 8000,
) -> None:
    """Start the service, project real tensors through it, check the answers, and show what parallelism bought."""
    with _told():
        _need("demo", "service", "ray")
        from normtree.commands.demo import run_demo

        run_demo(console, weights, once=once, port=port)


def _settings(**given: object) -> Settings:
    """Make settings of the options that were given; the rest comes from the environment."""
    return Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]


def _select(
    file: "TensorFile", pattern: str | None, ball: tuple[str, str | None, str | None], source: Path
) -> list[str]:
    """Name the tensors to project: those that match, or all that the norm fits; the only one in any case."""
    from normtree.fitting import fits
    from normtree.text.patterns import compile_pattern
    from normtree_kernels.dtypes import ACCEPTED
    from normtree_kernels.refusals import Refusal

    count = len(file.tensors) + len(file.opaque)
    if pattern is None:
        names = [name for name, y in file.tensors.items() if count == 1 or fits(y.ndim, y.dtype.name, *ball)]
        if not names:
            raise ValueError(f"tensor: none of the {count} tensors of {source} fits the norm {ball[0]}")
        return names
    try:
        compiled = compile_pattern(pattern)
    except Refusal as error:
        raise error.about("tensor") from None
    for name, tensor in file.opaque.items():
        if compiled.fullmatch(name):
            raise ValueError(f"{name}: tensor: wanted dtype {', '.join(ACCEPTED)}, got {tensor.code}")
    names = [name for name in file.tensors if compiled.fullmatch(name)]
    if not names:
        raise ValueError(f"tensor: {pattern!r} matches none of the {count} tensors of {source}")
    return names


@contextmanager
def _named(name: str, several: bool) -> Iterator[None]:
    """Say which tensor it was, where there are several."""
    try:
        yield
    except (NormtreeError, TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}" if several else str(error)) from error


def _results_table() -> Table:
    table = Table("tensor", "shape")
    for column in ("zeros before", "zeros after", "wall ms"):
        table.add_column(column, justify="right")
    return table


def _zeros(y: "NDArray[Any]", x: "NDArray[Any]") -> tuple[str, str]:
    import numpy as np

    return tuple(f"{1 - np.count_nonzero(a) / max(a.size, 1):.1%}" for a in (y, x))  # type: ignore[return-value]


if __name__ == "__main__":
    app()
