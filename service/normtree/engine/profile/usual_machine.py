"""The profile of a usual machine, to plan by until this one has been measured.

Rates as they were measured on a few machines, rounded. They decide which way a projection runs, never what it gives.
"""

from collections.abc import Collection

from normtree.engine.profile.machine import Machine
from normtree.engine.profile.machine_profile import (
    SWEEPS,
    Curve,
    Engine,
    EngineCost,
    Layout,
    LeafSweep,
    MachineProfile,
    SweepCost,
)
from normtree_kernels.dtypes import ACCEPTED
from normtree_kernels.norms.mixed_norm import NORMS

_LAYOUTS: tuple[Layout, ...] = ("rows", "columns", "packed")
_SIZES = (1 << 12, 1 << 22, 1 << 28)
_START_NS = {"up": 4_500.0, "down": 7_000.0}
_NS_PER_BYTE = {"up": 0.05, "down": 0.08}
_SEARCH_NS_PER_BYTE = 0.25  # down a level whose projection is a search
_MEMORY_NS_PER_BYTE = 0.04  # of all threads together
_PACKED = 2.0
_SHORT = Curve((4, 64, 1024), (4e6, 2e5, 0.0))
_RATIOS = {"float64": 0.8, "float16": 1.6, "bfloat16": 1.6}
_BANDWIDTH_GB_S = {"read": 20.0, "copy": 10.0, "stream": 12.0}
_ENGINES: dict[Engine, EngineCost] = {
    "inline": EngineCost(request_ms=0.0, block_ms=0.1, moved_ms_per_mib=2.0, slowdown=1.05),
    "ray": EngineCost(request_ms=1.0, block_ms=0.2, moved_ms_per_mib=3.0, slowdown=1.05),
}


def usual_profile(machine: Machine, workers: int, engines: Collection[Engine]) -> MachineProfile:
    """Return a profile that nobody has measured.

    Args:
        machine: this one.
        workers: leaves that can run at once.
        engines: those that there are.
    """
    kinds = [(norm, layout) for norm in NORMS for layout in _LAYOUTS]
    return MachineProfile(
        machine=machine,
        measured=None,
        workers=workers,
        bandwidth_gb_s={kind: dict.fromkeys({1, workers}, rate) for kind, rate in _BANDWIDTH_GB_S.items()},
        leaves={f"{norm} {layout}": {s: _cost(norm, layout, s, workers) for s in SWEEPS} for norm, layout in kinds},
        dtypes={
            f"{norm} {layout} {dtype}": dict.fromkeys(SWEEPS, _RATIOS[dtype])
            for norm, layout in kinds
            for dtype in ACCEPTED
            if dtype != "float32"
        },
        engines={engine: _ENGINES[engine] for engine in engines},
    )


def _cost(norm: str, layout: Layout, sweep: LeafSweep, workers: int) -> SweepCost:
    per_byte = _SEARCH_NS_PER_BYTE if sweep == "down" and NORMS[norm].searches else _NS_PER_BYTE[sweep]
    per_byte *= _PACKED if layout == "packed" else 1.0
    start_ns = _START_NS[sweep]
    shared = max(per_byte / workers, _MEMORY_NS_PER_BYTE)
    return SweepCost(
        Curve(_SIZES, tuple(start_ns + per_byte * size for size in _SIZES)),
        Curve(_SIZES, tuple(start_ns + shared * size for size in _SIZES)),
        _SHORT,
    )
