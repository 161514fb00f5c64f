"""What runs on the first of two hosts: a tensor held half on each is projected, and the wire's bytes are counted.

Usage: python wire_driver.py ADDRESS
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import ray

import normtree_kernels as nk
from normtree import on_ray

SHAPE, NORM, RADIUS = (8192, 2048), "l1,linf", 3000.0


def half(part: int) -> Any:
    return np.random.default_rng(part).standard_normal((SHAPE[0] // 2, SHAPE[1]), dtype=np.float32)


def wire_bytes() -> int:
    """Bytes over this host's wire, both ways."""
    (line,) = (line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("wire0:"))
    counts = line.split(":")[1].split()
    return int(counts[0]) + int(counts[8])


def main() -> None:
    ray.init(address=sys.argv[1], log_to_driver=False, configure_logging=False)
    blocks = [ray.remote(half).options(resources={host: 0.1}).remote(part) for part, host in enumerate("ab")]
    ray.wait(blocks, num_returns=2, fetch_local=False)
    on_ray.project(blocks, NORM, RADIUS)  # each node's workers start, and load their kernels
    before = wire_bytes()
    found = on_ray.project_timed(blocks, NORM, RADIUS)
    crossed = wire_bytes() - before
    y = np.concatenate([half(0), half(1)])
    x = np.concatenate(ray.get(found.blocks))
    print(
        json.dumps(
            {
                "share": crossed / y.nbytes,
                "crossed": crossed,
                "nodes": found.timing.nodes,
                "wall_ms": found.timing.wall_ms,
                "equal": x.tobytes() == nk.project(y, NORM, RADIUS).tobytes(),
            }
        )
    )


if __name__ == "__main__":
    main()
