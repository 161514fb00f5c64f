"""Tied weights: tensors that a checkpoint has twice, and that whoever loads it takes for one."""

import json
import posixpath
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from normtree.formats.stored import Stored
from normtree.jobs.storage.places import Folder

_CONFIG, _CONFIG_BYTES = "config.json", 2**20
_MATRIX_AXES = 2
_SAMPLES, _SAMPLE_BYTES = 64, 1024
# Embeddings and heads, as models name them; others are known by having a row for each word.
_NAMES = ("lm_head.weight", "embed_out.weight", "embed_tokens.weight", "word_embeddings.weight", "wte.weight")


@dataclass(frozen=True)
class Tie:
    """Tensors that are one.

    Args:
        config: the file that says so.
        places: their files and names.
    """

    config: str
    places: tuple[tuple[str, str], ...]

    def told(self, rules: Mapping[tuple[str, str], int]) -> str | None:
        """Say where a job would make them differ; None where it does not.

        Args:
            rules: of the tensors that are projected, by file and name, the rule's index.
        """
        if len({rules.get(place) for place in self.places}) == 1:
            return None
        names = [repr(name) + (f" (rules[{rules[shard, name]}])" if (shard, name) in rules else " (none)")
                 for shard, name in self.places]  # fmt: skip
        return (
            f"{' and '.join(names)} hold the same weights and are tied by {self.config}, but not projected alike: "
            "whoever loads them takes one for all, and may take another than you mean"
        )


def find_ties(folder: Folder, names: Sequence[str], places: Sequence[tuple[str, Stored]]) -> tuple[Tie, ...]:
    """Find what each ``config.json`` ties: embeddings and heads of the same bytes, by samples of them.

    Args:
        folder: of the checkpoint.
        names: of its files.
        places: its tensors, and the files they are in.

    Raises:
        StorageFailed: a file cannot be read.
    """
    found = []
    for config in names:
        if posixpath.basename(config) == _CONFIG and (words := _tied_words(folder, config)) is not None:
            at = posixpath.dirname(config)
            beside = [(name, entry) for name, entry in places if posixpath.dirname(name) == at]
            found += [Tie(config, same) for same in _same(folder, [each for each in beside if _may_be(each[1], words)])]
    return tuple(found)


def _tied_words(folder: Folder, config: str) -> set[object] | None:
    """Return the numbers of words of a model that ties its embeddings; None where it does not, or says nothing."""
    size = folder.stat(config).size
    if size > _CONFIG_BYTES:
        return None
    raw = bytearray(size)
    with folder.reader(config) as reader:
        reader.read_into(0, memoryview(raw))
    try:
        plain = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    parts: list[dict[str, Any]] = [part for part in (plain, *_below(plain)) if isinstance(part, dict)]
    if not any(part.get("tie_word_embeddings") is True for part in parts):
        return None
    return {part["vocab_size"] for part in parts if isinstance(part.get("vocab_size"), int)}


def _below(plain: object) -> list[object]:
    return list(plain.values()) if isinstance(plain, dict) else []


def _may_be(entry: Stored, words: set[object]) -> bool:
    if len(entry.shape) != _MATRIX_AXES or not entry.nbytes:
        return False
    return entry.shape[0] in words or entry.name.endswith(_NAMES)


def _same(folder: Folder, places: list[tuple[str, Stored]]) -> list[tuple[tuple[str, str], ...]]:
    """Group tensors of the same shape, type and bytes."""
    alike = defaultdict(list)
    for shard, entry in places:
        alike[entry.code, entry.shape].append((shard, entry))
    same = defaultdict(list)
    for kind, found in alike.items():
        for shard, entry in found if len(found) > 1 else ():
            same[kind, _digest(folder, shard, entry)].append((shard, entry.name))
    return [tuple(found) for found in same.values() if len(found) > 1]


def _digest(folder: Folder, shard: str, entry: Stored) -> bytes:
    digest = sha256()
    with folder.reader(shard) as reader:
        for start in range(entry.start, entry.stop, max(_SAMPLE_BYTES, entry.nbytes // _SAMPLES)):
            buffer = bytearray(min(_SAMPLE_BYTES, entry.stop - start))
            reader.read_into(start, memoryview(buffer))
            digest.update(buffer)
    return digest.digest()
