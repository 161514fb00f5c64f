"""How far a job is, for whoever watches."""

from collections.abc import Callable
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Progress:
    """How far a job is.

    Args:
        bytes_done: bytes read up, and written.
        bytes_total: of all that is to be done; bytes that a root waits for count twice.
        tensors_done: tensors whose shard is in place.
        tensors_total: tensors to project.
        shards_done: shards in place.
        shards_total: of all.
    """

    bytes_done: int
    bytes_total: int
    tensors_done: int
    tensors_total: int
    shards_done: int
    shards_total: int

    def as_dict(self) -> dict[str, int]:
        """The progress as plain values, for JSON."""
        return asdict(self)


Watch = Callable[[Progress], None]


def unwatched(progress: Progress) -> None:
    """Watch nothing."""
