"""What it costs to have Ray's workers run two phases of leaves: plain tasks, actor calls, compiled graphs, lines.

    python loadtests/dispatch.py [--requests 30] [--rounds 3] [--json]

A 128 MiB float32 tensor lies in shared memory, and every way runs the same `l1,linf` request on it. The ways take
turns, a round each, and none has workers while another has its turn: some keep a core busy by waiting. Shown are
the wall less the span, which is what the way itself cost, and what an idle worker takes of a core.
"""

import argparse
import json
import os
import statistics
from collections.abc import Callable
from tempfile import TemporaryDirectory
from time import monotonic_ns, sleep
from typing import Any, Protocol

import numpy as np
import ray
from ray.dag import InputNode

from normtree.engine.cluster.line import Answerer, Line, new_key
from normtree.engine.cluster.ray_environment import prepare_environment
from normtree.engine.executor import Executor, Leaf
from normtree.engine.kernels import warm_kernels
from normtree.engine.memory.arena import Arena
from normtree.engine.memory.stop import Stop
from normtree.engine.memory.tensor import Tensor
from normtree.engine.plan import Plan
from normtree.engine.run import Run, TensorRun, Terms, run_tree
from normtree.engine.workers.lanes import Lanes
from normtree.engine.workers.threads import InlineExecutor
from normtree_kernels import MixedNorm
from normtree_kernels.tree.blocks import split
from normtree_kernels.tree.goal import Goal

SHAPE = (4096, 8192)
WORKERS = 2
WARM_UP = 5
DEADLINE_NS = 60 * 10**9
IDLE_S = 1.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Host:
    """What runs leaves in a worker process."""

    def __init__(self) -> None:
        warm_kernels()
        self._answerer: Answerer | None = None

    def pid(self) -> int:
        return os.getpid()

    def run(self, call: tuple[Leaf[Any], tuple[Any, ...]]) -> Any:
        leaf, args = call
        return leaf(*args)

    def listen(self, key: bytes, folder: str) -> str:
        self._answerer = Answerer(key, folder)
        return self._answerer.address

    def answer(self) -> None:
        if self._answerer:
            self._answerer.answer()


class Way(Protocol):
    """A lane that knows its worker's process."""

    pid: int | None

    def call(self, leaf: Leaf[Any], args: tuple[Any, ...], stop: Stop) -> Any: ...
    def kill(self) -> None: ...
    def close(self) -> None: ...


class Base:
    """What the ways have in common: an actor that ends with them."""

    def __init__(self) -> None:
        as_actor: Any = ray.remote(num_cpus=0)
        self.actor = as_actor(Host).remote()
        self.pid: int | None = ray.get(self.actor.pid.remote())

    def kill(self) -> None:
        """No request here outlives its time."""

    def close(self) -> None:
        ray.kill(self.actor)


class TaskWay(Base):
    """Plain tasks: Ray chooses and keeps the workers."""

    def __init__(self) -> None:
        self._task: Any = ray.remote(num_cpus=1, max_retries=0)(run_task)
        self.pid = None

    def call(self, leaf: Leaf[Any], args: tuple[Any, ...], stop: Stop) -> Any:
        return ray.get(self._task.remote((leaf, args)))

    def close(self) -> None:
        """Ray ends idle workers by itself."""


class ActorWay(Base):
    """A call of an actor's method for each leaf."""

    def call(self, leaf: Leaf[Any], args: tuple[Any, ...], stop: Stop) -> Any:
        return ray.get(self.actor.run.remote((leaf, args)))


class GraphWay(Base):
    """A compiled graph over one actor's method."""

    def __init__(self) -> None:
        super().__init__()
        with InputNode() as call:
            self._graph = self.actor.run.bind(call).experimental_compile()

    def call(self, leaf: Leaf[Any], args: tuple[Any, ...], stop: Stop) -> Any:
        return ray.get(self._graph.execute((leaf, args)))

    def close(self) -> None:
        self._graph.teardown(kill_actors=True)


class LineWay(Base):
    """One task for an actor's life, that answers calls over a socket."""

    def __init__(self) -> None:
        super().__init__()
        key, self._folder = new_key(), TemporaryDirectory()
        address = ray.get(self.actor.listen.remote(key, self._folder.name))
        self._answering = self.actor.answer.remote()
        self._line = Line(address, key)

    def call(self, leaf: Leaf[Any], args: tuple[Any, ...], stop: Stop) -> Any:
        return self._line.call(leaf, args)

    def close(self) -> None:
        super().close()
        self._folder.cleanup()


def run_task(call: tuple[Leaf[Any], tuple[Any, ...]]) -> Any:
    leaf, args = call
    return leaf(*args)


WAYS: dict[str, Callable[[], Way] | None] = {
    "threads": None,
    "tasks": TaskWay,
    "actors": ActorWay,
    "graphs": GraphWay,
    "lines": LineWay,
}


def cpu_s(pid: int) -> float:
    """Seconds that a process has spent on processors."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def take_turn(name: str, requests: int, run: Callable[[Executor], Run]) -> tuple[list[Run], float | None]:
    """Start a way's workers, run requests on them, look at them idle, and end them."""
    kind = WAYS[name]
    ways = [kind() for _ in range(WORKERS)] if kind else []
    executor = Lanes(ways, in_process=False) if ways else InlineExecutor(WORKERS)
    runs = [run(executor) for _ in range(WARM_UP + requests)][WARM_UP:]
    pids = [way.pid for way in ways if way.pid]
    before = sum(map(cpu_s, pids))
    sleep(IDLE_S)
    idle = (sum(map(cpu_s, pids)) - before) / IDLE_S / len(pids) if pids else None
    executor.close()
    return runs, idle


def measure(rounds: int, requests: int) -> dict[str, dict[str, float | None]]:
    """Let every way take its turn, round after round."""
    warm_kernels()
    prepare_environment(embedded=True)
    ray.init(address="local", num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, configure_logging=False)
    arena, norm = Arena(2**30), MixedNorm.parse("l1,linf", ndim=2)
    blocks = split(SHAPE, norm, WORKERS)
    plan = Plan(SHAPE, "float32", norm, Goal(0.1 * SHAPE[0]), False, "ray", WORKERS, "", blocks, {}, 0.0)
    runs: dict[str, list[Run]] = {name: [] for name in WAYS}
    idles: dict[str, list[float | None]] = {name: [] for name in WAYS}
    with arena.lease(plan.nbytes) as source, arena.lease(plan.nbytes) as target:
        work = TensorRun(Tensor(source.name, SHAPE, "float32"), Tensor(target.name, SHAPE, "float32"), plan)
        work.source.array(writable=True)[...] = np.random.default_rng(0).standard_normal(SHAPE, dtype=np.float32)

        def run(executor: Executor) -> Run:
            return run_tree(executor, arena, [work], plan.goal, Terms(monotonic_ns() + DEADLINE_NS))

        for _ in range(rounds):
            for name in WAYS:
                found, idle = take_turn(name, requests, run)
                runs[name] += found
                idles[name].append(idle)
    arena.close()
    ray.shutdown()
    return {name: summary(runs[name], idles[name][-1]) for name in WAYS}


def summary(runs: list[Run], idle: float | None) -> dict[str, float | None]:
    """Medians, and the overhead's spread."""
    overheads = sorted(run.wall_ms - run.span_ms for run in runs)
    return {
        "overhead p50 ms": statistics.median(overheads),
        "p10": overheads[len(overheads) // 10],
        "p90": overheads[9 * len(overheads) // 10],
        "wall p50 ms": statistics.median(run.wall_ms for run in runs),
        "span p50 ms": statistics.median(run.span_ms for run in runs),
        "idle worker, cores": idle,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=30, help="of each way in each round, after a warm-up")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    found = measure(options.rounds, options.requests)
    if options.json:
        print(json.dumps(found, indent=2))
        return
    columns = list(next(iter(found.values())))
    print(" | ".join(["way", *columns]))
    for name, row in found.items():
        print(" | ".join([name, *("-" if value is None else f"{value:.2f}" for value in row.values())]))


if __name__ == "__main__":
    main()
