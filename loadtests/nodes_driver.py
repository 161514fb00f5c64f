"""What runs on the first host: blocks on both nodes, then both ways in turn, timed and with the wire's bytes counted.

Usage: python loadtests/nodes_driver.py ADDRESS BYTES ROUNDS
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import numpy as np
import ray
from curves import RADIUS_SHARE, shape_of
from results import quartiles

import normtree_kernels as nk
from normtree_kernels import sweep
from normtree_kernels.goal import Goal
from normtree_kernels.norms import MixedNorm
from normtree_kernels.tree import crown

NORM = "l1,linf"
HOSTS = ("a", "b")
WAIT_S, TASKS = 60, 200


def wire_bytes() -> int:
    """Bytes over this host's wire, both ways."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        if line.strip().startswith("wire0:"):
            counts = line.split(":")[1].split()
            return int(counts[0]) + int(counts[8])
    raise OSError("no wire here")


@ray.remote(num_cpus=1)
def make_block(shape: tuple[int, int], part: int) -> np.ndarray:
    """A block, where it is made."""
    return np.random.default_rng(part).standard_normal(shape, dtype=np.float32)


@ray.remote(num_cpus=1)
def receive(block: np.ndarray) -> int:
    """Take a block to this node."""
    return block.nbytes


@ray.remote(num_cpus=1)
def nothing() -> None:
    """What a task costs that has nothing to do."""


@ray.remote(num_cpus=1)
def up(block: np.ndarray) -> np.ndarray:
    return sweep.up("linf", block, 1)


@ray.remote(num_cpus=1)
def down(block: np.ndarray, norms: np.ndarray, radii: np.ndarray) -> np.ndarray:
    out = np.empty_like(block)
    sweep.down("linf", block, 1, norms, radii, out)
    return out


def move_tree(blocks: list[Any], radius: float) -> list[Any]:
    """Project where the blocks are: norms come here, radii go there."""
    places = [{host: 0.01} for host in HOSTS]
    norms = ray.get([up.options(resources=place).remote(block) for block, place in zip(blocks, places, strict=True)])
    top = crown(MixedNorm.parse(NORM, ndim=2), np.concatenate(norms), Goal(radius=radius))
    cuts = np.cumsum([len(each) for each in norms])[:-1]
    parts = zip(blocks, norms, np.split(top.radii, cuts), places, strict=True)
    return [down.options(resources=place).remote(*part) for *part, place in parts]


def ship_tensor(blocks: list[Any], radius: float) -> list[Any]:
    """Project here: the other node's block comes, and its projection goes back."""
    y = np.concatenate(ray.get(blocks))
    x = nk.project(y, NORM, radius, threads=2)
    half = len(x) // 2
    mine, other = ray.put(x[:half]), ray.put(x[half:])
    return [mine, receive.options(resources={HOSTS[1]: 0.01}).remote(other)]


def timed(way: Callable[[list[Any], float], list[Any]], blocks: list[Any], radius: float) -> tuple[float, int]:
    """Run one way; return milliseconds and bytes on the wire."""
    before, start = wire_bytes(), perf_counter()
    done = way(blocks, radius)
    ray.wait(done, num_returns=len(done), timeout=WAIT_S, fetch_local=False)
    wall_ms = 1e3 * (perf_counter() - start)
    return wall_ms, wire_bytes() - before


def main(address: str, nbytes: int, rounds: int) -> None:
    ray.init(address=address, log_to_driver=False, configure_logging=False)
    rows, columns = shape_of(nbytes)
    parts = [np.random.default_rng(part).standard_normal((rows // 2, columns), dtype=np.float32) for part in (0, 1)]
    y = np.concatenate(parts)
    radius = RADIUS_SHARE * nk.norm(y, NORM)

    def blocks() -> list[Any]:
        made = [
            make_block.options(resources={host: 0.01}).remote((rows // 2, columns), part)
            for part, host in enumerate(HOSTS)
        ]
        ray.wait(made, num_returns=2, timeout=WAIT_S, fetch_local=False)
        return made

    x = np.concatenate(ray.get(move_tree(blocks(), radius)))
    if not np.array_equal(x, nk.project(y, NORM, radius)):
        raise ValueError("the tree's answer differs from the library's")
    taken: dict[str, list[tuple[float, int]]] = {"tree": [], "tensor": []}
    for round_ in range(rounds + 1):
        for way, run in (("tree", move_tree), ("tensor", ship_tensor)):
            here = blocks()
            sleep(0.2)
            found = timed(run, here, radius)
            if round_:
                taken[way].append(found)
    start = perf_counter()
    ray.get([nothing.options(resources={HOSTS[n % 2]: 0.01}).remote() for n in range(TASKS)])
    task_ms = 1e3 * (perf_counter() - start) / TASKS
    before = wire_bytes()
    sleep(1)
    idle = wire_bytes() - before
    plain = []
    for way, found in taken.items():
        lower, wall, upper = quartiles([wall for wall, _ in found])
        crossed = int(np.median([crossed for _, crossed in found]))
        plain.append({"way": way, "nbytes": y.nbytes, "norm": NORM, "wall_ms": wall, "lower_ms": lower,
                      "upper_ms": upper, "wire_bytes": crossed, "idle_bytes_per_s": idle,
                      "task_ms": task_ms})  # fmt: skip
    ray.shutdown()
    print(json.dumps(plain))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
