"""The output of a job: what of it is in place, as its proofs say, and how the rest comes there."""

from collections.abc import Callable

from normtree.errors import JobConflict, StorageFull
from normtree.jobs.checkpoint.checkpoint import Checkpoint, Shard
from normtree.jobs.journal.journal import Journal
from normtree.jobs.open_places import Places
from normtree.jobs.storage.places import Proof, Stat
from normtree.jobs.storage.proof import confirmed, proof_of, same_bytes

_ROOM_BYTES = 16 << 20  # beyond the output: journal, aggregates, report


class Output:
    """The files of a job's output.

    Args:
        places: of the job, locked.
        checkpoint: the input.
        journal: of the job, begun.

    Attributes:
        proofs: of the files that are in place, by their names.
    """

    def __init__(self, places: Places, checkpoint: Checkpoint, journal: Journal) -> None:
        """See what is in place, and put there what a run that was killed had finished."""
        self._source, self._target, self._state_url = places.source, places.target, places.state.url
        self._shards = {shard.name: shard for shard in checkpoint.shards}
        self._others = checkpoint.others
        self.proofs: dict[str, Proof] = {}
        known = self._others.keys() | journal.shards  # a shard's facts may be lost, and its proof not
        noted = {name: proof for name, proof in journal.proofs.items() if name in known}
        for name in self._shards.keys() & noted.keys():
            if self._target.waits(name, noted[name]) and not self._target.taken(name):
                self._target.place(name)
        for name in (*self._shards, *self._others):
            if not (name in noted and self._confirm(name, noted[name])) and self._is_copy(name):
                self.proofs[name] = proof_of(self._target, name)

    @property
    def is_whole(self) -> bool:
        """Whether all of it is in place."""
        return len(self.proofs) == len(self._shards) + len(self._others)

    @property
    def missing(self) -> list[Shard]:
        """The shards that are not in place."""
        return [shard for name, shard in self._shards.items() if name not in self.proofs]

    def make_room(self, *, resumed: bool) -> None:
        """Take away what is in the way of an output that was begun before, and see whether the rest fits on the disk.

        Raises:
            StorageFull: it does not.
        """
        sizes = {name: shard.stat.size for name, shard in self._shards.items()}
        sizes |= {name: stat.size for name, stat in self._others.items()}
        for name in sizes if resumed else ():
            self._target.discard(name)
            if name not in self.proofs:
                self._target.set_aside(name, self._state_url)
        free = self._target.free_bytes()
        wanted = _ROOM_BYTES + sum(size for name, size in sizes.items() if name not in self.proofs)
        if free is not None and wanted > free:
            raise StorageFull(
                f"{self._target.url}: {wanted:,} bytes are wanted for the output, {free:,} are free",
                limit=free,
                got=wanted,
            )

    def create(self, shards: list[Shard]) -> None:
        """Make files for shards, beside their places."""
        for shard in shards:
            self._target.create(shard.name, shard.stat.size, shard.stat.mode)

    def discard(self, shards: list[Shard]) -> None:
        """Remove what is beside the places of shards."""
        for shard in shards:
            self._target.discard(shard.name)

    def put(self, name: str, stat: Stat, note: Callable[[Proof], None]) -> None:
        """Finish a file, have it noted, and then put it into place: killed between the two, the next run puts it there.

        Args:
            name: of the file.
            stat: of the input's, as it was before it was read.
            note: notes the proof.

        Raises:
            JobConflict: the input's was written to since, or something is in its place.
        """
        proof = self._target.finish(name, stat.mode)
        self._check_unchanged(name, stat)
        note(proof)
        self._target.place(name)
        self.proofs[name] = proof

    def copy_others(self) -> None:
        """Copy the files that are no shards, when all shards are in place: until then nothing takes them for whole."""
        for name in [name for name in self._others if name not in self.proofs]:
            stat = self._others[name]
            try:
                self._target.create(name, stat.size, stat.mode)
                with self._source.reader(name) as reader, self._target.sink(name, stat.size) as sink:
                    sink.copy(reader, 0, stat.size)
                self.put(name, stat, lambda _: None)
            except BaseException:
                self._target.discard(name)
                raise

    def check_end(self) -> None:
        """See that the input is the one that was read, and the output what was written.

        Raises:
            JobConflict: they are not.
        """
        stats = {name: shard.stat for name, shard in self._shards.items()} | dict(self._others)
        for name, stat in stats.items():
            now = self._source.stat(name)
            if (now.size, now.mark) != (stat.size, stat.mark):
                raise self._changed(name, "its output is no projection")
        for name, proof in list(self.proofs.items()):
            if not self._confirm(name, proof):
                raise JobConflict(f"{self._target.url}: {name} was removed or changed while the job ran; run it again")

    def _confirm(self, name: str, proof: Proof) -> bool:
        found = confirmed(self._target, name, proof)
        self.proofs.pop(name, None)
        if found:
            self.proofs[name] = found
        return found is not None

    def _is_copy(self, name: str) -> bool:
        """Tell whether a file that nothing proves is in place nevertheless; a store's is not read for that."""
        return name in self._others and not self._target.streams and same_bytes(self._source, self._target, name)

    def _check_unchanged(self, name: str, stat: Stat) -> None:
        """Refuse bytes of a file that was written to since it was looked at, were its time put back since.

        Raises:
            JobConflict: it was.
        """
        now = self._source.stat(name)
        if (now.size, now.mark) != (stat.size, stat.mark):
            raise self._changed(name, "its output is no projection")
        if now != stat:
            raise self._changed(name, "or its permissions or names did; run the job again, it resumes")

    def _changed(self, name: str, more: str) -> JobConflict:
        return JobConflict(f"{self._source.url}: {name} changed while the job ran, {more}")
