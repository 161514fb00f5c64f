"""The floor: how fast the same bytes are merely copied to the same disk and synced, measured after the job."""

from dataclasses import dataclass
from time import perf_counter

from normtree.jobs.checkpoint.checkpoint import Shard
from normtree.jobs.plan.job_plan import MIB, JobPlan
from normtree.jobs.storage.places import SUFFIX, Folder, Target

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
    shard, name = _measured(plan)
    nbytes = min(shard.stat.size, _MOST_BYTES)
    target.create(name, nbytes)
    try:
        started = perf_counter()
        with source.reader(shard.name) as reader, target.sink(name, nbytes) as sink:
            sink.copy(reader, 0, nbytes)
            sink.sync()
        return Floor(nbytes, perf_counter() - started)
    finally:
        target.discard(name)


def discard_floor(plan: JobPlan, target: Target) -> None:
    """Remove the copy of a run that was killed while it was measuring."""
    if not target.streams:
        target.discard(_measured(plan)[1])


def _measured(plan: JobPlan) -> tuple[Shard, str]:
    """Return the largest shard, and what its copy is called."""
    shard = max(plan.checkpoint.shards, key=lambda found: found.stat.size)
    return shard, shard.name.replace(SUFFIX, ".floor")
