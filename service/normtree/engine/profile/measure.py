"""Measuring the machine profile: leaves on the bench, then whole requests on the engines. It takes a second or two."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import reduce

from normtree.engine.profile.cost import MOVED_BYTES, Prediction, Workload
from normtree.engine.profile.disturbance import Disturbance
from normtree.engine.profile.leaf_bench import SIZES, Bench
from normtree.engine.profile.machine import Machine
from normtree.engine.profile.machine_profile import (
    MIB,
    SWEEPS,
    Engine,
    EngineCost,
    LeafSweep,
    MachineProfile,
    SweepCost,
)
from normtree_kernels.dtypes import ACCEPTED
from normtree_kernels.norms.mixed_norm import NORMS, MixedNorm
from normtree_kernels.tree.blocks import split

Request = Callable[[tuple[int, int], int], float]
"""Projects float32 noise of a shape on the l1,linf ball, rows the groups, on so many workers, a few times; returns the
median wall in ms."""

FREE = EngineCost(request_ms=0.0, block_ms=0.0, moved_ms_per_mib=0.0, slowdown=1.0)
"""An engine that adds nothing: what is measured against."""

_NORM = MixedNorm.parse("l1,linf", ndim=2)
_ROUNDS = 2  # apart in time, so that what disturbs the machine for a moment disturbs one of them; the lower counts
_TINY_SIDE, _SHORT = 64, 16
_LARGE_BYTES, _LARGEST_BYTES = 1 << 26, 1 << 28
_ROOM = 4  # the largest is measured where requests may be so many times as large


def measure(
    machine: Machine,
    workers: int,
    engines: Iterable[Engine],
    requests: Callable[[MachineProfile, Engine], Request],
    limit_bytes: int,
) -> MachineProfile:
    """Measure leaves and engines.

    Args:
        machine: this one.
        workers: leaves that can run at once.
        engines: those that there are.
        requests: makes what runs requests on an engine, planned by a profile.
        limit_bytes: of the largest tensor that they take.
    """
    with Disturbance() as disturbance:
        largest = _LARGEST_BYTES if limit_bytes >= _ROOM * _LARGEST_BYTES else _LARGE_BYTES
        profile = measure_leaves(machine, workers, largest)
        for engine in engines:
            request = requests(replace(profile, engines={"inline": FREE, engine: FREE}), engine)
            profile = measure_engine(profile, engine, request, limit_bytes)
    return replace(profile, disturbed=disturbance.share)


def measure_leaves(machine: Machine, workers: int, largest_bytes: int) -> MachineProfile:
    """Measure the memory and the leaves, of tensors up to a size; the engines add nothing yet."""
    bench = Bench(workers, largest_bytes)
    leaves = [
        {f"{norm} {layout}": bench.leaf(norm, layout) for norm in NORMS for layout in SIZES} for _ in range(_ROUNDS)
    ]
    others = [dtype for dtype in ACCEPTED if dtype != "float32"]
    ratios: dict[str, Mapping[LeafSweep, float]] = {}
    for norm in NORMS:
        for layout in SIZES:
            for dtype, ratio in bench.ratios(norm, layout, others).items():
                ratios[f"{norm} {layout} {dtype}"] = ratio
    return MachineProfile(
        machine=machine,
        measured=datetime.now(UTC).replace(microsecond=0),
        workers=workers,
        bandwidth_gb_s=bench.bandwidth_gb_s(),
        leaves={
            kind: {sweep: reduce(SweepCost.least, (each[kind][sweep] for each in leaves)) for sweep in SWEEPS}
            for kind in leaves[0]
        },
        dtypes=ratios,
        engines={"inline": FREE},
    )


def measure_engine(profile: MachineProfile, engine: Engine, request: Request, limit_bytes: int) -> MachineProfile:
    """Measure what an engine adds to bare leaves, and return the profile with it.

    Args:
        profile: from `measure_leaves`.
        engine: which.
        request: runs requests on it.
        limit_bytes: of the largest tensor that it takes.
    """
    most, adds = profile.workers, FREE
    large_bytes = min(_LARGE_BYTES, limit_bytes)
    side = math.isqrt(large_bytes // 4) * 31 // 32
    tiny, large = (_TINY_SIDE, _TINY_SIDE), (side, side)
    many = (large_bytes // (4 * 8 * _SHORT), _SHORT)

    wanted = ((tiny, 1), (tiny, most), (large, most), (many, most))
    rounds = [{asked: request(*asked) for asked in wanted} for _ in range(_ROUNDS)]
    walls_ms = {asked: min(each[asked] for each in rounds) for asked in wanted}

    def predict(shape: tuple[int, int], workers: int) -> Prediction:
        with_it = replace(profile, engines={engine: adds})
        return Workload.of(shape, "float32", _NORM).predict(with_it, engine, split(shape, _NORM, workers), workers)

    def beyond_ms(shape: tuple[int, int], workers: int) -> float:
        return max(0.0, walls_ms[shape, workers] - predict(shape, workers).wall_ms)

    adds = replace(adds, request_ms=beyond_ms(tiny, 1))
    adds = replace(adds, block_ms=beyond_ms(tiny, most) / max(most - 1, 1))
    adds = replace(adds, slowdown=1.0 + beyond_ms(large, most) / predict(large, most).leaves_ms)
    adds = replace(adds, moved_ms_per_mib=beyond_ms(many, most) * MIB / (MOVED_BYTES * many[0]))
    return replace(profile, engines={**profile.engines, engine: adds})
