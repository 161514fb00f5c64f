"""Checkpoints: sharded or single safetensors files with an index and a model's other files, read by their headers."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from normtree.errors import InvalidCheckpoint
from normtree.jobs.header import DTYPES, LENGTH_BYTES, Entry, header_bytes, parse_header
from normtree.jobs.places import SUFFIX, Folder, Stat

INDEX_SUFFIX = SUFFIX + ".index.json"
_SHARD_OF = re.compile(r"-\d+-of-(?P<count>\d+)\.safetensors$")
_UNPROJECTED = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf")
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
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint.

    Args:
        shards: its safetensors files, by name.
        others: its other files, which are copied as they are, by name.
    """

    shards: tuple[Shard, ...]
    others: Mapping[str, Stat]

    @property
    def shard_bytes(self) -> int:
        """Bytes of all shards."""
        return sum(shard.stat.size for shard in self.shards)

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return self.shard_bytes + sum(stat.size for stat in self.others.values())

    @property
    def unprojected(self) -> list[str]:
        """Files that look like the same weights in another format: they are copied, and not projected."""
        return [name for name in self.others if name.endswith(_UNPROJECTED)]

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
        InvalidCheckpoint: no shard, a broken or truncated one, an index that is missing or tells of others.
    """
    names = folder.names() if only is None else (only,)
    shards = tuple(_read_shard(folder, name) for name in names if name.endswith(SUFFIX))
    if not shards:
        raise InvalidCheckpoint(f"{folder.url}: no {SUFFIX} file in it")
    if only is None:
        _check_indexes(folder, names, shards)
    others = {name: folder.stat(name) for name in names if not name.endswith(SUFFIX)}
    return Checkpoint(shards, others)


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
        entries = parse_header(raw, stat.size, where)
        digest = hashlib.sha256(raw)
        step = max(_SAMPLE_BYTES, (stat.size - data) // _SAMPLES)
        for start in range(data, stat.size, step):
            digest.update(read(start, start + _SAMPLE_BYTES))
    return Shard(name, stat, digest.hexdigest(), data, entries)


def _check_indexes(folder: Folder, names: Iterable[str], shards: tuple[Shard, ...]) -> None:
    """Check that each index tells of tensors that are there, and that shards of a set have one."""
    indexes = {name: _read_index(folder, name) for name in names if name.endswith(INDEX_SUFFIX)}
    found = {shard.name: {entry.name for entry in shard.entries} for shard in shards}
    indexed = set()
    for index, weights in indexes.items():
        at = PurePosixPath(index).parent
        for tensor, file in weights.items():
            name = str(at / str(file))
            if name not in found:
                raise InvalidCheckpoint(f"{folder.url}/{index}: tensor {tensor!r} is in {name}, which is missing")
            if tensor not in found[name]:
                raise InvalidCheckpoint(f"{folder.url}/{index}: tensor {tensor!r} is not in {name}")
            indexed.add(name)
    for name in found:
        if _SHARD_OF.search(name) and name not in indexed:
            raise InvalidCheckpoint(
                f"{folder.url}/{name}: a shard of a set, but no *{INDEX_SUFFIX} tells of it; without one it won't load"
            )


def _read_index(folder: Folder, name: str) -> dict[str, object]:
    buffer = bytearray(folder.stat(name).size)
    with folder.reader(name) as reader:
        reader.read_into(0, memoryview(buffer))
    try:
        weights = json.loads(buffer)["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidCheckpoint(f"{folder.url}/{name}: no index: {error}") from None
    if not isinstance(weights, dict):
        raise InvalidCheckpoint(f"{folder.url}/{name}: weight_map must be an object, got {type(weights).__name__}")
    return weights


def is_projectable(entry: Entry) -> bool:
    """Tell whether a tensor's element type can be projected."""
    return entry.code in DTYPES
