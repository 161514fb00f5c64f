"""Speed-up curves: walls against workers, sizes and norms, on threads and on Ray, beside the memory's own limit.

Every case lies in the projector's own arena. In each round the serial library call, the floor at every number of
workers, and every engine at every number of workers take turns, so that a slow spell of the machine falls on all; a
speed-up is the median of the rounds' own ratios. The reference is the best serial program we have: the library on one
thread into memory that is already there, or the inline engine with one worker where that is faster.

The roofline is measured, not read off a data sheet: as many threads as workers read the tensor once, then read it
again and write as much, in plain compiled loops. Kernels that write past the caches can be a little faster than that.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from tools.results import Point

import normtree_kernels as nk
from normtree.engine.memory.tensor import Tensor
from normtree.engine.projector import Projector
from speed import contenders
from speed.laws import Fit, fit

NORMS = ("l1,linf", "l1,l2", "l1,l1")
ENGINES = ("inline", "ray")
RADIUS_SHARE = 0.1
LONGEST_ROW = 8192
FEWEST, MOST = 5, 41  # rounds
MIB = 2**20

Run = Callable[[], Mapping[str, Any] | None]


@dataclass(frozen=True)
class Case:
    """One tensor and one norm, in the arena."""

    source: Tensor
    target: Tensor
    norm: str
    radius: float


@dataclass(frozen=True)
class Curve:
    """A fitted curve: walls against workers of one engine on one norm and size."""

    engine: str
    norm: str
    nbytes: int
    fit: Fit


def sizes(largest_bytes: int) -> list[int]:
    """64 KiB and every fourfold of it, up to the largest, which is always there."""
    steps = [64 * 2**10]
    while steps[-1] * 4 < largest_bytes:
        steps.append(steps[-1] * 4)
    return [*steps, largest_bytes] if steps[-1] < largest_bytes else steps


def shape_of(nbytes: int) -> tuple[int, int]:
    """A float32 matrix of so many bytes: nearly square, its rows at most 8192 long."""
    elements = nbytes // 4
    columns = min(LONGEST_ROW, 2 ** ((elements.bit_length()) // 2))
    return elements // columns, columns


@contextmanager
def cases(projector: Projector, nbytes: int, norms: Sequence[str] = NORMS) -> Iterator[list[Case]]:
    """Put noise of a size into the arena, and give a case for each norm on it."""
    shape = shape_of(nbytes)
    with ExitStack() as leases:
        segments = [leases.enter_context(projector.arena.lease(nbytes)) for _ in range(2)]
        source, target = (Tensor(segment.name, shape, "float32") for segment in segments)
        y = source.array(writable=True)
        fill(y)
        target.array(writable=True)[...] = 0
        yield [Case(source, target, norm, RADIUS_SHARE * nk.norm(y, norm)) for norm in norms]


def fill(y: np.ndarray) -> None:
    """Fill with noise, no two rows alike: a large tensor's panels are one panel at different scales."""
    panel = np.random.default_rng(0).standard_normal((min(len(y), 16 * MIB // y.shape[1]), y.shape[1]), np.float32)
    for index, start in enumerate(range(0, len(y), len(panel))):
        part = y[start : start + len(panel)]
        np.multiply(panel[: len(part)], np.float32(1 + index / 64), out=part)


def strong(projector: Projector, case: Case, budget_s: float) -> list[Point]:
    """All engines at all numbers of workers on one tensor."""
    counts = range(1, projector.workers + 1)
    y, out = case.source.array(), case.target.array(writable=True)
    runs: dict[tuple[str, int], Run] = {("serial", 1): serial(case)}
    with ExitStack() as pools:
        for count in counts:
            pool = pools.enter_context(ThreadPoolExecutor(count))
            runs["floor", count] = floor(y, out, pool, count)
        for engine in engines(projector):
            for count in counts:
                runs[engine, count] = engine_run(projector, case, engine, count)
        walls, timings = take_turns(runs, budget_s)
    serials = best_serial(walls)
    return [
        _point("strong", case, walls[engine, count], serials, walls["floor", count], timings[engine, count])
        for engine, count in runs
        if engine in ENGINES
    ]


def weak(projector: Projector, small: Case, grown: Mapping[int, Case], budget_s: float) -> list[Point]:
    """All engines on tensors that grow with the workers, against the serial time of one worker's part."""
    runs: dict[tuple[str, int], Run] = {("serial", 1): serial(small)}
    with ExitStack() as pools:
        for count, case in grown.items():
            pool = pools.enter_context(ThreadPoolExecutor(count))
            runs["floor", count] = floor(case.source.array(), case.target.array(writable=True), pool, count)
            for engine in engines(projector):
                runs[engine, count] = engine_run(projector, case, engine, count)
        walls, timings = take_turns(runs, budget_s)
    serials = best_serial(walls)
    return [
        _point("weak", case, walls[engine, n], serials, walls["floor", n], timings[engine, n])
        for engine in engines(projector)
        for n, case in grown.items()
    ]


def engines(projector: Projector) -> tuple[str, ...]:
    """The engines that this projector has."""
    return ENGINES if projector.ray else ENGINES[:1]


def serial(case: Case) -> Run:
    """The library on one thread, into memory that is already there."""
    y, out = case.source.array(), case.target.array(writable=True)

    def run() -> None:
        nk.project(y, case.norm, case.radius, out=out)

    return run


def floor(y: np.ndarray, out: np.ndarray, pool: ThreadPoolExecutor, count: int) -> Run:
    """Plain loops over as many parts as there are threads."""
    parts = list(zip(np.array_split(y, count), np.array_split(out, count), strict=True))

    def run() -> None:
        list(pool.map(lambda part: contenders.floor(*part), parts))

    return run


def engine_run(projector: Projector, case: Case, engine: str, workers: int) -> Run:
    """One projection by an engine, planned beforehand."""
    plan = projector.plan(
        case.source.shape, case.source.dtype, norm=case.norm, radius=case.radius, engine=engine, workers=workers
    )
    predicted_ms = plan.predicted_ms[plan.engine]

    def run() -> Mapping[str, Any]:
        return {**projector.project(case.source, case.target, plan).as_dict(), "predicted_ms": predicted_ms}

    return run


def best_serial(walls: Mapping[tuple[str, int], list[float]]) -> list[float]:
    """The rounds of the faster of the two serial programs."""
    return min(walls["serial", 1], walls["inline", 1], key=median)


def take_turns(
    runs: Mapping[tuple[str, int], Run], budget_s: float
) -> tuple[dict[tuple[str, int], list[float]], dict[tuple[str, int], Mapping[str, Any]]]:
    """Run all in turn, two rounds to warm up and then as many as the time permits, 5 to 41.

    Returns:
        Each one's walls in milliseconds, round by round, and its timing of the round with the middle wall.
    """
    walls: dict[tuple[str, int], list[float]] = {key: [] for key in runs}
    timings: dict[tuple[str, int], list[Any]] = {key: [] for key in runs}
    end_s, done = perf_counter() + budget_s, -2
    while done < FEWEST or (done < MOST and perf_counter() < end_s):
        for key, run in runs.items():
            start = perf_counter()
            timing = run()
            wall_ms = 1e3 * (perf_counter() - start)
            if done >= 0:
                walls[key].append(wall_ms)
                timings[key].append(timing)
        done += 1
    middle = {key: int(np.argsort(each)[len(each) // 2]) for key, each in walls.items()}
    return walls, {key: timings[key][middle[key]] for key in runs}


def _point(
    scaling: str, case: Case, walls: list[float], serials: list[float], floors: list[float], timing: Mapping[str, Any]
) -> Point:
    serial_ms, wall_ms = float(np.median(serials)), timing["wall_ms"]
    workers = timing["workers"]
    speedup = serial_ms * (workers if scaling == "weak" else 1) / wall_ms
    measured = {
        **timing, "serial_ms": serial_ms, "serial_is": "measured", "speedup": speedup, "efficiency": speedup / workers
    }  # fmt: skip
    predicted_ms, floor_ms = measured.pop("predicted_ms"), float(np.median(floors))
    return Point(scaling, case.source.nbytes, tuple(walls), tuple(serials), floor_ms, predicted_ms, measured)


def curves(points: Sequence[Point]) -> list[Curve]:
    """Fit both laws to every engine, norm and size of strong scaling."""
    groups: dict[tuple[str, str, int], dict[int, Sequence[float]]] = {}
    for point in points:
        if point.scaling == "strong":
            groups.setdefault((point.engine, point.norm, point.nbytes), {})[point.workers] = point.walls_ms
    return [Curve(*key, fit(walls)) for key, walls in groups.items() if len(walls) > 1 and 1 in walls]


def measure(
    projector: Projector,
    largest_bytes: int,
    weak_bytes: Sequence[int],
    budget_s: float,
    end_s: float = math.inf,
    say: Callable[[str], None] = print,
) -> list[Point]:
    """Measure all curves; a case takes about the budget, or five rounds where those take longer.

    Args:
        projector: whose engines run.
        largest_bytes: of the tensors.
        weak_bytes: one worker's parts, for weak scaling.
        budget_s: of a case.
        end_s: `time.perf_counter` after which no size is begun.
        say: is told how far it is, and what was left out.
    """
    points = []
    counts = range(1, projector.workers + 1)
    for nbytes in weak_bytes:
        with ExitStack() as stack:
            grown = {n: stack.enter_context(cases(projector, n * nbytes)) for n in counts}
            for index, norm in enumerate(NORMS):
                say(f"weak, {nbytes >> 20} MiB a worker, {norm}")
                here = {n: grown[n][index] for n in counts}
                points += weak(projector, here[1], here, budget_s)
    for nbytes in sizes(largest_bytes):
        if perf_counter() > end_s:
            say(f"no time left for {nbytes >> 20} MiB")
            continue
        with cases(projector, nbytes) as each:
            for case in each:
                say(f"strong, {nbytes / MIB:g} MiB, {case.norm}")
                points += strong(projector, case, budget_s)
    return points


def needed_bytes(largest_bytes: int, weak_bytes: Sequence[int], workers: int) -> int:
    """Bytes of arena that `measure` leases at once, two segments a tensor, each a power of two."""
    together = [[largest_bytes], *([n * nbytes for n in range(1, workers + 1)] for nbytes in weak_bytes)]
    return 2 * max(sum(1 << (nbytes - 1).bit_length() for nbytes in each) for each in together)
