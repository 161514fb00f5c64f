"""What a request over several nodes costs beside its leaves, from requests over two nodes on several wires.

    wall = leaves + request + block * blocks + trips * round trip + keep * MiB of a node's share

The leaves are the plan's model; the four others are fitted to the probes by least squares on relative errors, none
below zero. A block is a Ray task in each phase. Keeping is what a result costs that goes to a node's object store: new
pages for it, and a copy. Both nodes share one machine here, so what a block and a MiB cost is rather too much for nodes
that share nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from normtree.engine.profile.machine_profile import MIB


@dataclass(frozen=True)
class NodesCost:
    """What a request adds that goes to several nodes.

    Args:
        request_ms: once.
        block_ms: for each block, both phases together.
        trips: round trips of the network, one after the other.
        keep_ms_per_mib: for each MiB of a node's share.
    """

    request_ms: float
    block_ms: float
    trips: float
    keep_ms_per_mib: float

    def ms(self, blocks: float, round_trip_ms: float, share_bytes: float) -> float:
        """All of it."""
        return (
            self.request_ms
            + self.block_ms * blocks
            + self.trips * round_trip_ms
            + self.keep_ms_per_mib * share_bytes / MIB
        )


def fit_probes(probes: Sequence[Mapping[str, Any]], leaves_ms: Sequence[float]) -> NodesCost:
    """Fit to probes.

    Args:
        probes: each with ``wall_ms``, ``blocks``, ``round_trip_ms`` as it was measured, ``nbytes`` and ``nodes``.
        leaves_ms: what the model says of each one's leaves.

    Raises:
        ValueError: fewer probes than unknowns.
    """
    if len(probes) < 4:
        raise ValueError(f"probes: wanted at least 4, got {len(probes)}")
    rows = [[1.0, p["blocks"], p["round_trip_ms"], p["nbytes"] / p["nodes"] / MIB] for p in probes]
    walls = np.array([probe["wall_ms"] for probe in probes])
    columns = np.array(rows) / walls[:, None]
    return NodesCost(*_non_negative(columns, 1 - np.array(leaves_ms) / walls))


def _non_negative(columns: np.ndarray, wanted: np.ndarray) -> tuple[float, ...]:
    """Least squares with no parameter below zero: the best of all subsets, of which there are 16."""
    count = columns.shape[1]
    best: tuple[float, ...] = (0.0,) * count
    least = float(wanted @ wanted)
    for size in range(1, count + 1):
        for chosen in combinations(range(count), size):
            found = np.linalg.lstsq(columns[:, chosen], wanted, rcond=None)[0]
            off = wanted - columns[:, chosen] @ found
            if (found >= 0).all() and off @ off < least:
                least = float(off @ off)
                best = tuple(float(found[chosen.index(n)]) if n in chosen else 0.0 for n in range(count))
    return best
