"""Checkpoints: sharded or single safetensors files with an index and a model's other files, read by their headers."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from normtree.errors import InvalidCheckpoint
from normtree.formats.safetensors import LENGTH_BYTES
from normtree.formats.stored import Stored, header_bytes, read_stored
from normtree.jobs.checkpoint.index import Index, list_shards
from normtree.jobs.checkpoint.tied_weights import Tie, find_ties
from normtree.jobs.storage.places import SUFFIX, Folder, Stat

_UNPROJECTED = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf")
_IN_CACHE = re.compile(r"(?P<at>(?:[^/]+/)?)(?P<kind>blobs|snapshots)/[^/]+")
_SAMPLES, _SAMPLE_BYTES = 64, 1024


@dataclass(frozen=True)
class Shard:
    """One safetensors file.

    Args:
        name: its path in the folder.
        stat: its version.
        digest: SHA-256 of its header and of samples of its data.
        data: where the data begins, in bytes.
        entries: its tensors, in the order of their bytes.
    """

    name: str
    stat: Stat
    digest: str
    data: int
    entries: tuple[Stored, ...]


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint.

    Args:
        shards: its safetensors files, by name.
        others: its other files, which are copied as they are, by name.
        remarks: what a person should know of its files.
        ties: tensors that whoever loads it takes for one.
    """

    shards: tuple[Shard, ...]
    others: Mapping[str, Stat]
    remarks: tuple[str, ...] = ()
    ties: tuple[Tie, ...] = ()

    @property
    def shard_bytes(self) -> int:
        """Bytes of all shards."""
        return sum(shard.stat.size for shard in self.shards)

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return self.shard_bytes + sum(stat.size for stat in self.others.values())

    def notes(self, rules: Mapping[tuple[str, str], int]) -> list[str]:
        """Tell what a person should know of it.

        Args:
            rules: of the tensors that are projected, by file and name, the rule's index.
        """
        others = [name for name in self.others if name.endswith(_UNPROJECTED)]
        told = [f"copied as they are, though they seem to hold weights too: {', '.join(others)}"] if others else []
        ties = (tie.told(rules) for tie in self.ties)
        return [*self.remarks, *told, *(note for note in ties if note)]

    def versions(self) -> dict[str, list[object]]:
        """What tells this input from another or a later one, for JSON."""
        shards = {shard.name: [shard.stat.size, shard.stat.mark, shard.digest] for shard in self.shards}
        return {**shards, **{name: [stat.size, stat.mark] for name, stat in self.others.items()}}


def read_checkpoint(folder: Folder, only: str | None = None) -> Checkpoint:
    """Read the headers and the index of a checkpoint, and check them.

    Args:
        folder: where it is.
        only: the one file that it is, where it is a file.

    Raises:
        StorageFailed: a file cannot be read.
        InvalidCheckpoint: no shard, a broken or truncated one, an index that tells of others; a hub's cache.
    """
    if only is not None:
        return Checkpoint((_read_shard(folder, only),), {})
    names = folder.names()
    _check_no_cache(folder, names)
    listing = list_shards(folder, names)
    if not listing.shards:
        raise InvalidCheckpoint(f"{folder.url}: no {SUFFIX} file in it")
    shards = tuple(_read_shard(folder, name) for name in listing.shards)
    _check_indexes(folder, listing.indexes, shards)
    others = {name: folder.stat(name) for name in sorted({*names} - {*listing.shards})}
    places = [(shard.name, entry) for shard in shards for entry in shard.entries]
    return Checkpoint(shards, others, (*listing.remarks, *_twice(shards)), find_ties(folder, names, places))


def _read_shard(folder: Folder, name: str) -> Shard:
    where = f"{folder.url}/{name}"
    stat = folder.stat(name)
    with folder.reader(name) as reader:

        def read(start: int, stop: int) -> bytes:
            buffer = bytearray(max(0, min(stop, stat.size) - start))
            reader.read_into(start, memoryview(buffer))
            return bytes(buffer)

        data = header_bytes(read(0, LENGTH_BYTES), stat.size, where)
        raw = read(0, data)
        entries = read_stored(raw, stat.size, where)
        digest = hashlib.sha256(raw)
        step = max(_SAMPLE_BYTES, (stat.size - data) // _SAMPLES)
        for start in range(data, stat.size, step):
            digest.update(read(start, start + _SAMPLE_BYTES))
    return Shard(name, stat, digest.hexdigest(), data, entries)


def _check_indexes(folder: Folder, indexes: Iterable[Index], shards: tuple[Shard, ...]) -> None:
    """Check that the files have the tensors that each index says they have."""
    found = {shard.name: {entry.name for entry in shard.entries} for shard in shards}
    for index in indexes:
        for tensor, name in index.files.items():
            if tensor not in found[name]:
                raise InvalidCheckpoint(f"{folder.url}/{index.name}: tensor {tensor!r} is not in {name}")


def _check_no_cache(folder: Folder, names: Iterable[str]) -> None:
    """Refuse a hub's cache, or a folder of them: the weights lie in it under several names."""
    blobs: set[str] = set()
    snapshots: dict[str, str] = {}
    for name in names:
        found = _IN_CACHE.match(name)
        if found and found["kind"] == "blobs":
            blobs.add(found["at"])
        elif found:
            snapshots.setdefault(found["at"], found[0])
    for at, snapshot in snapshots.items():
        if at in blobs:
            raise InvalidCheckpoint(
                f"{folder.url}: a hub's cache, and no checkpoint: name one of its snapshots, such as {snapshot}"
            )


def _twice(shards: tuple[Shard, ...]) -> list[str]:
    """Tell of tensors that a folder has in several files under one name."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for shard in shards:
        for entry in shard.entries:
            found[str(PurePosixPath(shard.name).parent), entry.name].append(shard.name)
    several = [(name, files) for (_, name), files in found.items() if len(files) > 1]
    if not several:
        return []
    name, files = several[0]
    told = f"{len(several)} tensors are in several files, such as {name!r} in {' and '.join(files)}"
    return [f"{told}: rules take each of them, and a ball of scope global counts each"]
