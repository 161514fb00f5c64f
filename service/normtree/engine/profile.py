"""The machine profile: how fast leaves run here, and what starting them costs. Data only; see `measure`."""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from pydantic import TypeAdapter

from normtree.engine.machine import Machine
from normtree.engine.units import size_text

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
        measured: when; UTC.
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
    measured: datetime
    workers: int
    bandwidth_gb_s: Mapping[str, Mapping[int, float]]
    leaves: Mapping[str, Mapping[LeafSweep, SweepCost]]
    dtypes: Mapping[str, Mapping[LeafSweep, float]]
    engines: Mapping[Engine, EngineCost]
    disturbed: float = 0.0

    @property
    def is_due(self) -> bool:
        """Whether it is better measured again: others disturbed it, and that was a while ago."""
        return self.disturbed > _CALM and datetime.now(UTC) - self.measured > _PATIENCE

    @property
    def circumstances(self) -> str:
        """When it was measured, and how undisturbed."""
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
            ValueError: it is none, or one of another version's form.
        """
        return _ADAPTER.validate_json(text)


_ADAPTER = TypeAdapter(MachineProfile)


def _threads(count: int) -> str:
    return f"{count} thread{'' if count == 1 else 's'}"
