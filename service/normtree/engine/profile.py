"""The machine profile: how fast leaves run here, and what starting them costs. Data only; see `measure`."""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import TypeAdapter

from normtree.engine.machine import Machine

Engine = Literal["inline", "ray"]
Layout = Literal["rows", "columns", "packed"]
LeafSweep = Literal["up", "down"]
MIB = 1 << 20
SWEEPS: tuple[LeafSweep, ...] = ("up", "down")


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
        measured: when; UTC, ISO 8601.
        workers: threads with which shared rates were measured.
        bandwidth_gb_s: of the memory on 1, 2, 4, … threads, over the bytes of the tensor: ``read``, ``copy``,
            ``stream`` (clipped to another place past the caches).
        leaves: by leaf norm and layout, such as ``"l1 rows"``, what the sweeps of float32 cost.
        dtypes: by leaf norm, layout and element type, such as ``"l1 rows float64"``, the time in the caches over that
            of float32 for as many bytes.
        engines: what each engine that there is adds.
    """

    machine: Machine
    measured: str
    workers: int
    bandwidth_gb_s: Mapping[str, Mapping[int, float]]
    leaves: Mapping[str, Mapping[LeafSweep, SweepCost]]
    dtypes: Mapping[str, Mapping[LeafSweep, float]]
    engines: Mapping[Engine, EngineCost]

    def as_dict(self) -> dict[str, object]:
        """The profile as plain values, for JSON."""
        plain: dict[str, object] = _ADAPTER.dump_python(self, mode="json")
        return plain

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
