"""The machine profile: how fast leaves run here, and what starting them costs. Data only; see `measure`."""

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain, pairwise
from typing import Literal, get_args

from pydantic import AwareDatetime, TypeAdapter

from normtree.engine.profile.machine import Machine
from normtree.engine.profile.units import size_text
from normtree_kernels.dtypes import ACCEPTED
from normtree_kernels.norms.mixed_norm import NORMS

Engine = Literal["inline", "ray"]
Layout = Literal["rows", "columns", "packed"]
LeafSweep = Literal["up", "down"]
MIB = 1 << 20
SWEEPS: tuple[LeafSweep, ...] = ("up", "down")

_CALM = 0.05
_PATIENCE = timedelta(hours=1)


@dataclass(frozen=True)
class Curve:
    """Nanoseconds, by a size: straight lines between the sizes measured.

    Args:
        sizes: ascending.
        ns: measured for each.
    """

    sizes: tuple[int, ...]
    ns: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse what is no curve."""
        ascending = all(a < b for a, b in pairwise((0, *self.sizes)))
        if not (self.sizes and ascending and len(self.ns) == len(self.sizes) and all(map(_is_time, self.ns))):
            raise ValueError(f"curve: wanted ascending sizes > 0 and as many finite times >= 0, got {self}")

    def at(self, size: int) -> float:
        """Read the curve; below the least size it is level, and beyond the largest it grows in proportion."""
        if size >= self.sizes[-1]:
            return self.ns[-1] * size / self.sizes[-1]
        i = bisect_right(self.sizes, size)
        if i == 0:
            return self.ns[0]
        below, above = self.sizes[i - 1], self.sizes[i]
        return self.ns[i - 1] + (self.ns[i] - self.ns[i - 1]) * (size - below) / (above - below)

    def rates(self) -> dict[str, float]:
        """For people: GB/s by size in bytes."""
        return {size_text(size): round(size / ns, 2) for size, ns in zip(self.sizes, self.ns, strict=True)}

    def least(self, other: "Curve") -> "Curve":
        """The lower of two measurements of the same sizes."""
        return Curve(self.sizes, tuple(map(min, self.ns, other.ns)))


@dataclass(frozen=True)
class SweepCost:
    """What one sweep of float32 leaves of one norm and layout costs.

    Args:
        serial: on one thread, by the bytes of the tensor: small ones run from the caches.
        shared: the same on as many threads as the profile's ``workers``, without what starting them costs.
        short: what a MiB takes more where the stretches of neighbouring elements that the kernel walks are short, by
            their number of elements; on one thread.
    """

    serial: Curve
    shared: Curve
    short: Curve

    def least(self, other: "SweepCost") -> "SweepCost":
        """The lower of two measurements."""
        return SweepCost(
            self.serial.least(other.serial), self.shared.least(other.shared), self.short.least(other.short)
        )

    def ns(self, nbytes: int, run: int, workers: float) -> float:
        """Predict the wall: the work divided by the workers, until all together saturate the memory.

        Args:
            nbytes: of the tensor.
            run: length of its stretches of neighbouring elements.
            workers: that share the work; a fraction where they cannot share it evenly.
        """
        divided = (self.serial.at(nbytes) + self.short.at(run) * nbytes / MIB) / workers
        saturated = self.shared.at(nbytes) if workers > 1 else 0.0
        return max(divided, saturated)


@dataclass(frozen=True)
class EngineCost:
    """What an engine adds to the leaves of a request.

    Args:
        request_ms: once.
        block_ms: for each block after the first.
        moved_ms_per_mib: for each MiB of norms and radii that goes between leaves and root.
        slowdown: time of its leaves, of a large tensor, over that of bare ones.
    """

    request_ms: float
    block_ms: float
    moved_ms_per_mib: float
    slowdown: float


@dataclass(frozen=True)
class MachineProfile:
    """Rates and overheads of a machine, in the state it was in when measured.

    Args:
        machine: which.
        measured: when; UTC. None: it was not, and is taken from usual machines.
        workers: threads with which shared rates were measured.
        bandwidth_gb_s: of the memory on 1, 2, 4, … threads, over the bytes of the tensor: ``read``, ``copy``,
            ``stream`` (clipped to another place past the caches).
        leaves: by leaf norm and layout, such as ``"l1 rows"``, what the sweeps of float32 cost.
        dtypes: by leaf norm, layout and element type, such as ``"l1 rows float64"``, the time in the caches over that
            of float32 for as many bytes.
        engines: what each engine that there is adds.
        disturbed: share of the measuring's time in which others had the processors, 0 to 1.
    """

    machine: Machine
    measured: AwareDatetime | None
    workers: int
    bandwidth_gb_s: Mapping[str, Mapping[int, float]]
    leaves: Mapping[str, Mapping[LeafSweep, SweepCost]]
    dtypes: Mapping[str, Mapping[LeafSweep, float]]
    engines: Mapping[Engine, EngineCost]
    disturbed: float = 0.0

    @property
    def is_due(self) -> bool:
        """Whether it is better measured: it was not, or others disturbed it, and that was a while ago."""
        return not self.measured or (self.disturbed > _CALM and datetime.now(UTC) - self.measured > _PATIENCE)

    @property
    def circumstances(self) -> str:
        """When it was measured, and how undisturbed."""
        if not self.measured:
            return "of a usual machine; this one has not been measured yet"
        return f"measured {self.measured:%Y-%m-%d %H:%M} UTC, others had {self.disturbed:.0%} of the time"

    def as_dict(self) -> dict[str, object]:
        """The profile as plain values, for JSON."""
        plain: dict[str, object] = _ADAPTER.dump_python(self, mode="json")
        return plain

    def readable(self) -> dict[str, object]:
        """The profile for people: rates in GB/s of the tensor, by threads and by its size."""
        plain = self.as_dict()
        return {
            **{name: plain[name] for name in ("machine", "measured", "workers")},
            "disturbed": round(self.disturbed, 2),
            "memory_gb_per_s": {
                kind: {_threads(count): round(rate, 1) for count, rate in rates.items()}
                for kind, rates in self.bandwidth_gb_s.items()
            },
            "leaves_gb_per_s": {
                kind: {
                    sweep: {_threads(1): cost.serial.rates(), _threads(self.workers): cost.shared.rates()}
                    for sweep, cost in costs.items()
                }
                for kind, costs in self.leaves.items()
            },
            "engines": {
                engine: {name: float(f"{value:.3g}") for name, value in asdict(cost).items()}
                for engine, cost in self.engines.items()
            },
        }

    def to_json(self) -> bytes:
        """The profile as `from_json` reads it."""
        return _ADAPTER.dump_json(self, indent=1)

    @staticmethod
    def from_json(text: bytes) -> "MachineProfile":
        """Read a profile.

        Raises:
            ValueError: it is none, one of another version's form, or one by which nothing can be planned.
        """
        profile = _ADAPTER.validate_json(text)
        profile.check()
        return profile

    def check(self) -> None:
        """Refuse a profile by which nothing can be planned.

        Raises:
            ValueError: a norm, layout or type is missing, or a rate is none.
        """
        kinds = {f"{norm} {layout}" for norm in NORMS for layout in get_args(Layout)}
        others = {f"{kind} {dtype}" for kind in kinds for dtype in ACCEPTED if dtype != "float32"}
        sweeps = [costs for costs in (*self.leaves.values(), *self.dtypes.values()) if set(costs) != set(SWEEPS)]
        if set(self.leaves) != kinds or set(self.dtypes) != others or sweeps or "inline" not in self.engines:
            raise ValueError("profile: wanted each norm, layout and element type, up and down, and the inline engine")
        walls = [curve.ns for costs in self.leaves.values() for c in costs.values() for curve in (c.serial, c.shared)]
        rates = [rate for each in self.bandwidth_gb_s.values() for rate in each.values()]
        rates += [ratio for each in self.dtypes.values() for ratio in each.values()]
        slowdowns = [cost.slowdown for cost in self.engines.values()]
        adds = [each for c in self.engines.values() for each in (c.request_ms, c.block_ms, c.moved_ms_per_mib)]
        if not all(0.0 < value < math.inf for value in (self.workers, *rates, *slowdowns, *chain(*walls))):
            raise ValueError("profile: wanted times, rates and workers > 0")
        if not all(0.0 <= value < math.inf for value in (self.disturbed, *adds)):
            raise ValueError("profile: wanted finite overheads >= 0")


_ADAPTER = TypeAdapter(MachineProfile)


def _is_time(ns: float) -> bool:
    return 0.0 <= ns < math.inf


def _threads(count: int) -> str:
    return f"{count} thread{'' if count == 1 else 's'}"
