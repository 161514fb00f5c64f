"""What runs on the first host: blocks on both nodes, then both ways in turn, timed and with the wire's bytes counted.

Usage: PYTHONPATH=loadtests python loadtests/hosts/nodes_driver.py ADDRESS, then on the standard input a line
`BYTES ROUNDS` for each measurement
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import numpy as np
import ray
from speed.curves import RADIUS_SHARE, shape_of
from tools.results import quartiles

import normtree_kernels as nk
from normtree import on_ray

NORM = "l1,linf"
HOSTS = ("a", "b")
WAIT_S, REST_S = 60, 0.2
# Tiny blocks are still too large to travel with their tasks.
TINY_BYTES, TINY_BLOCKS, TINY_ROUNDS, WARM_ROUNDS = 1 << 18, (2, 8), 9, 3


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


def move_tree(blocks: list[Any], radius: float) -> list[Any]:
    """Project where the blocks are, as the product does."""
    return on_ray.project(blocks, NORM, radius)


def ship_tensor(blocks: list[Any], radius: float) -> list[Any]:
    """Project here: the other node's block comes, and its projection goes back."""
    y = np.concatenate(ray.get(blocks))
    x = nk.project(y, NORM, radius, threads=2)
    half = len(x) // 2
    mine, other = ray.put(x[:half]), ray.put(x[half:])
    return [mine, receive.options(resources={HOSTS[1]: 0.01}).remote(other)]


def lay_out(shape: tuple[int, int], count: int) -> list[Any]:
    """Make so many blocks of a shape, on the nodes in turn."""
    places = [{HOSTS[part % len(HOSTS)]: 0.01} for part in range(count)]
    made = [make_block.options(resources=place).remote(shape, part) for part, place in enumerate(places)]
    ray.wait(made, num_returns=count, timeout=WAIT_S, fetch_local=False)
    sleep(REST_S)
    return made


def timed(way: Callable[[list[Any], float], list[Any]], blocks: list[Any], radius: float) -> tuple[float, int]:
    """Run one way; return milliseconds and bytes on the wire."""
    before, start = wire_bytes(), perf_counter()
    done = way(blocks, radius)
    ray.wait(done, num_returns=len(done), timeout=WAIT_S, fetch_local=False)
    wall_ms = 1e3 * (perf_counter() - start)
    return wall_ms, wire_bytes() - before


def summary(found: Sequence[tuple[float, int]]) -> dict[str, Any]:
    """Quartiles of the walls, and the middle count of bytes."""
    lower, wall, upper = quartiles([wall for wall, _ in found])
    crossed = int(np.median([crossed for _, crossed in found]))
    return {"rounds": len(found), "wall_ms": wall, "lower_ms": lower, "upper_ms": upper, "wire_bytes": crossed}


def probe(nbytes: int, count: int, rounds: int) -> dict[str, Any]:
    """Move the tree over so many blocks, again and again."""
    rows, columns = shape_of(nbytes // count)
    found = [timed(move_tree, lay_out((rows, columns), count), 1.0) for _ in range(rounds + 1)]
    return {"blocks": count, "nbytes": nbytes, "fibres": count * rows, **summary(found[1:])}


def measure(nbytes: int, rounds: int) -> dict[str, Any]:
    """Compare both ways on the wire as it is now.

    Raises:
        ValueError: the tree's answer is not the library's.
    """
    shape = shape_of(nbytes // len(HOSTS))
    parts = [np.random.default_rng(part).standard_normal(shape, dtype=np.float32) for part in range(len(HOSTS))]
    y = np.concatenate(parts)
    radius = RADIUS_SHARE * nk.norm(y, NORM)
    x = np.concatenate(ray.get(move_tree(lay_out(shape, len(HOSTS)), radius)))
    if not np.array_equal(x, nk.project(y, NORM, radius)):
        raise ValueError("the tree's answer differs from the library's")
    for _ in range(WARM_ROUNDS):  # every worker of both nodes starts and loads its kernels
        probe(TINY_BLOCKS[-1] * TINY_BYTES, TINY_BLOCKS[-1], 1)
    probes = [probe(count * TINY_BYTES, count, TINY_ROUNDS) for count in TINY_BLOCKS]
    # Larger than what is compared: blocks below 32 MiB take memory that the worker has kept, and new pages cost more.
    probes.append(probe(nbytes * 3 // 2, len(HOSTS), rounds))
    taken: dict[str, list[tuple[float, int]]] = {"tree": [], "tensor": []}
    for round_ in range(rounds + 1):
        for way, run in (("tree", move_tree), ("tensor", ship_tensor)):
            found = timed(run, lay_out(shape, len(HOSTS)), radius)
            if round_:
                taken[way].append(found)
    before = wire_bytes()
    sleep(1)
    idle = wire_bytes() - before
    about = {"nbytes": y.nbytes, "fibres": len(y), "blocks": len(HOSTS), "norm": NORM, "idle_bytes_per_s": idle}
    return {"runs": [{"way": way, **about, **summary(found)} for way, found in taken.items()], "probes": probes}


def main(address: str) -> None:
    ray.init(address=address, log_to_driver=False, configure_logging=False)
    for line in sys.stdin:
        nbytes, rounds = map(int, line.split())
        print(json.dumps(measure(nbytes, rounds)), flush=True)
    ray.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
