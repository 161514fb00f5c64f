"""The floor: how fast the same bytes are merely copied to the same disk and synced, measured after the job."""

from dataclasses import dataclass
from time import perf_counter

from normtree.jobs.places import Folder, Target
from normtree.jobs.plan import MIB, JobPlan

_MOST_BYTES = 256 * MIB


@dataclass(frozen=True)
class Floor:
    """A copy that was measured.

    Args:
        nbytes: bytes copied and synced.
        seconds: what that took.
    """

    nbytes: int
    seconds: float

    @property
    def bytes_per_s(self) -> float:
        """Its rate."""
        return self.nbytes / self.seconds


def measure_floor(plan: JobPlan, source: Folder, target: Target) -> Floor | None:
    """Copy the beginning of the largest shard beside the output, sync it and drop it.

    Returns:
        None where the output is a store that nothing can be put beside in.
    """
    if target.streams:
        return None
    shard = max(plan.checkpoint.shards, key=lambda found: found.stat.size)
    nbytes = min(shard.stat.size, _MOST_BYTES)
    name = shard.name.replace(".safetensors", ".floor")
    target.create(name, nbytes)
    try:
        started = perf_counter()
        with source.reader(shard.name) as reader, target.sink(name, nbytes) as sink:
            sink.copy(reader, 0, nbytes)
            sink.sync()
        return Floor(nbytes, perf_counter() - started)
    finally:
        target.discard(name)
