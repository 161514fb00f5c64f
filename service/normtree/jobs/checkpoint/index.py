"""The indexes of a checkpoint, ``*.safetensors.index.json``: which tensor is in which file, checked against the files.

A folder may have several, for variants of the same weights: ``model.safetensors.index.fp16.json``.
"""

import json
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from normtree.errors import InvalidCheckpoint
from normtree.formats.stored import LIMIT_BYTES
from normtree.jobs.storage.places import SUFFIX, Folder

_INDEX = re.compile(r"\.safetensors(?P<before>\.[^/.]+)?\.index(?P<after>\.[^/.]+)?\.json$")
_SHARD = re.compile(r"(?P<prefix>.*)-(?P<number>\d{1,9})-of-(?P<count>\d{1,9})(?P<variant>\.[^/.]+)?\.safetensors$")


@dataclass(frozen=True)
class Index:
    """One index.

    Args:
        name: its path in the folder.
        files: of each tensor the path of its file in the folder.
    """

    name: str
    files: Mapping[str, str]

    @property
    def is_variant(self) -> bool:
        """Whether it is of other weights than those that are loaded where nobody asks for a variant."""
        found = _INDEX.search(self.name)
        return bool(found and (found["before"] or found["after"]))


@dataclass(frozen=True)
class WeightFiles:
    """Which files of a folder are its weights.

    Args:
        shards: those that are to be read as safetensors.
        indexes: those of which all files are there.
        remarks: what is told of the others.
    """

    shards: tuple[str, ...]
    indexes: tuple[Index, ...]
    remarks: tuple[str, ...]


def list_shards(folder: Folder, names: Iterable[str]) -> WeightFiles:
    """Tell which files are a checkpoint's weights, by their names and by its indexes.

    Raises:
        StorageFailed: an index cannot be read.
        InvalidCheckpoint: an index that is none or lists a file that is missing; a set without an index that is not
            whole.
    """
    names = tuple(names)
    shards = [name for name in names if name.endswith(SUFFIX)]
    indexes = [_read(folder, name) for name in names if _INDEX.search(name)]
    whole = [index for index in indexes if _is_whole(folder, index, shards, indexes)]
    indexed = {file for index in whole for file in index.files.values()}
    stale, remarks = _sort_out(folder, [name for name in shards if name not in indexed], indexed)
    remarks += [
        f"{index.name} tells of files that are not here, and other weights are"
        for index in indexes
        if index not in whole
    ]
    return WeightFiles(tuple(name for name in shards if name not in stale), tuple(whole), tuple(remarks))


def _read(folder: Folder, name: str) -> Index:
    where, size = f"{folder.url}/{name}", folder.stat(name).size
    if size > LIMIT_BYTES:
        raise InvalidCheckpoint(f"{where}: no index: {size} bytes, wanted at most {LIMIT_BYTES}")
    buffer = bytearray(size)
    with folder.reader(name) as reader:
        reader.read_into(0, memoryview(buffer))
    try:
        weights = json.loads(buffer.decode("utf-8-sig"))["weight_map"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidCheckpoint(f"{where}: no index: {error}") from None
    if not (isinstance(weights, dict) and all(isinstance(file, str) for file in weights.values())):
        raise InvalidCheckpoint(f"{where}: weight_map must be an object of names of files")
    at = posixpath.dirname(name)
    files = {tensor: posixpath.normpath(posixpath.join(at, file)) for tensor, file in weights.items()}
    for tensor, file in files.items():
        if posixpath.isabs(file) or file.split("/", 1)[0] == "..":
            raise InvalidCheckpoint(
                f"{where}: tensor {tensor!r} is in {weights[tensor]!r}, which is outside the folder"
            )
    return Index(name, files)


def _is_whole(folder: Folder, index: Index, shards: list[str], indexes: list[Index]) -> bool:
    """Tell whether all files of an index are there; that none of them is may be, where other weights are.

    Raises:
        InvalidCheckpoint: some are missing, or all, and there are no other weights.
    """
    there, at = set(shards), posixpath.dirname(index.name)
    missing = next(((tensor, file) for tensor, file in index.files.items() if file not in there), None)
    if missing is None:
        return True
    others = [each for each in indexes if each is not index and posixpath.dirname(each.name) == at]
    instead = any(there.issuperset(each.files.values()) for each in others) or (
        index.is_variant and any(posixpath.dirname(shard) == at for shard in shards)
    )
    if instead and there.isdisjoint(index.files.values()):
        return False
    tensor, file = missing
    raise InvalidCheckpoint(f"{folder.url}/{index.name}: tensor {tensor!r} is in {file}, which is missing")


def _sort_out(folder: Folder, shards: list[str], indexed: set[str]) -> tuple[set[str], list[str]]:
    """Tell which files that no index lists are not to be read, and what is to be said of them all.

    Raises:
        InvalidCheckpoint: a set without an index that is not whole.
    """
    folders = {posixpath.dirname(name) for name in indexed}
    prefixes = {_set_of(name)[:2] for name in indexed}
    sets: dict[tuple[str, str, int], list[str]] = defaultdict(list)
    stale: set[str] = set()
    remarks = []
    for name in shards:
        if _SHARD.match(name):
            sets[_set_of(name)].append(name)
        elif posixpath.dirname(name) in folders:
            remarks.append(f"{name} is in no index: its tensors are taken too, and may be the same weights again")
    for (prefix, variant, count), files in sets.items():
        numbers = set(map(_number, files))
        missing = next((number for number in range(1, count + 1) if number not in numbers), None)
        if missing is None and (prefix, variant) not in prefixes:
            remarks.append(f"{prefix}-*-of-{count:05}{variant}{SUFFIX} have no index: some programs do not load them")
        elif posixpath.dirname(prefix) in folders:
            stale.update(files)
            remarks += [f"{name} is in no index, though others are: it is left as it is" for name in files]
        else:
            raise InvalidCheckpoint(
                f"{folder.url}/{files[0]}: of a set of {count} without an index, and number {missing} is missing"
            )
    return stale, remarks


def _set_of(name: str) -> tuple[str, str, int]:
    """Return what files of one set share; a file alone is one too."""
    found = _SHARD.match(name)
    return (found["prefix"], found["variant"] or "", int(found["count"])) if found else (name, "", 1)


def _number(name: str) -> int:
    found = _SHARD.match(name)
    return int(found["number"]) if found else 1
