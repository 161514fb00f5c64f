"""The journal of a job: what it was asked, what its input was, and what of it is done. Killed jobs resume from it.

It lies in a folder beside the output, ``OUTPUT.normtree``: one JSON object a line, each synced before the job goes
on, and the aggregates of tensors whose root needs many of them. Lines and aggregates are kept with a digest, and what
does not match it is as good as not there: half a last line, or what a disk has changed since.
"""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import astuple
from functools import cached_property
from typing import Any

from normtree.errors import JobConflict
from normtree.jobs.journal.aggregates import of_bytes, to_bytes
from normtree.jobs.plan.facts import Facts
from normtree.jobs.storage.places import Proof
from normtree.jobs.storage.state import State
from normtree_kernels.dtypes import Float64Array

NAME = "journal.jsonl"
VERSION = 2
_AGGREGATES = "aggregates"
_DIGEST = b',"sha256":"'  # the last key of a line, of all that is before it


class Journal:
    """The journal of one output.

    Args:
        state: the folder it is in, locked by the caller.

    Raises:
        JobConflict: its beginning is damaged or of another version.
    """

    def __init__(self, state: State) -> None:
        """Read what is there."""
        self._state = state
        raw = state.read(NAME) or b""
        self._bytes, self._gap = len(raw), b"" if raw.endswith(b"\n") or not raw else b"\n"
        self._entries = _parse(raw)
        if self._entries and self._entries[0]["what"] != "begun":
            raise self._conflict("has a damaged journal, whose beginning is lost")
        if not self._entries and (version := _version_of(raw)) not in (None, VERSION):
            raise self._conflict(f"was written by another version of normtree ({version})")

    @property
    def begun(self) -> bool:
        """Whether a job has been here before."""
        return bool(self._entries)

    @property
    def completed(self) -> dict[str, Any] | None:
        """What was noted when all was done, the last time; None while it is not."""
        return next((entry for entry in reversed(self._entries) if entry["what"] == "completed"), None)

    @property
    def finished(self) -> dict[str, tuple[Facts, ...]]:
        """The shards that are finished, and what is known of their tensors."""
        shards = (entry for entry in self._entries if entry["what"] == "shard")
        return {entry["name"]: tuple(map(Facts.of_dict, entry["facts"])) for entry in shards}

    @property
    def shards(self) -> frozenset[str]:
        """The shards that are finished."""
        return frozenset(entry["name"] for entry in self._entries if entry["what"] == "shard")

    @property
    def proofs(self) -> dict[str, Proof]:
        """What proves the files of the output, as it was noted last."""
        found: dict[str, Proof] = {}
        for entry in self._entries:
            found |= {name: Proof(*proof) for name, proof in entry.get("proofs", {}).items()}
        return found

    @property
    def stints(self) -> list[dict[str, Any]]:
        """When workers did what, in all attempts so far."""
        return [stint for entry in self._entries for stint in entry.get("stints", [])]

    def begin(self, recipe: str, versions: Mapping[str, list[object]]) -> None:
        """Begin a job, or go on with the one that is there if it is the same.

        Args:
            recipe: digest of the recipe.
            versions: of the input's files.

        Raises:
            JobConflict: another recipe or another input; what has changed is told.
        """
        if not self.begun:
            self._note({"what": "begun", "version": VERSION, "recipe": recipe, "input": dict(versions)})
            return
        first = self._entries[0]
        if first["version"] != VERSION:
            raise self._conflict(f"was written by another version of normtree ({first['version']})")
        if first["recipe"] != recipe:
            raise self._conflict("was begun with another recipe")
        changed = sorted(
            name for name in first["input"].keys() | versions.keys() if first["input"].get(name) != versions.get(name)
        )
        if changed:
            raise self._conflict(f"was begun with another input: {', '.join(changed)} changed since")

    def note_shard(self, name: str, proof: Proof, facts: tuple[Facts, ...], stints: list[dict[str, Any]]) -> None:
        """Note that a shard is finished, before it is put into its place."""
        entry = {"what": "shard", "name": name, "facts": [each.as_dict() for each in facts], "stints": stints}
        self._note({**entry, "proofs": {name: astuple(proof)}})

    def note_completed(self, summary: Mapping[str, Any], proofs: Mapping[str, Proof]) -> None:
        """Note that all is done and in its place."""
        proved = {name: astuple(proof) for name, proof in proofs.items()}
        self._note({"what": "completed", **summary, "proofs": proved})

    def keep(self, vs: Mapping[int, Float64Array], mark: str) -> None:
        """Keep aggregates of tensors, by their indices; what one task has made is one file.

        Args:
            vs: the aggregates.
            mark: when the shard that they are of was last changed.
        """
        self._state.write(f"{_AGGREGATES}/{min(vs)}", to_bytes(vs, self._about(min(vs), mark)))

    def kept(self, shapes: Mapping[int, tuple[int, ...]], marks: Mapping[int, str]) -> dict[int, Float64Array]:
        """Return the aggregates that were kept of tensors, by their indices.

        What is damaged, of another job or of a shard that was changed since was not kept.

        Args:
            shapes: of the tensors that are asked for.
            marks: of their shards, as they are now.
        """
        found: dict[int, Float64Array] = {}
        for name in self._state.names(_AGGREGATES):
            last = name.rpartition("/")[2]
            index = int(last) if last.isdecimal() else -1
            about = self._about(index, marks.get(index, ""))
            found |= of_bytes(self._state.read(name) or b"", shapes, about)
        return found

    def drop_aggregates(self) -> None:
        """Remove aggregates that nothing needs any more."""
        for name in self._state.names(_AGGREGATES):
            self._state.remove(name)

    @cached_property
    def _job(self) -> str:
        return hashlib.sha256(_line(self._entries[0])).hexdigest()

    def _about(self, index: int, mark: str) -> bytes:
        return f"{self._job} {index} {mark}".encode()

    def _note(self, entry: dict[str, Any]) -> None:
        line = self._gap + _line(entry)
        self._state.append(NAME, line, self._bytes)
        self._bytes, self._gap = self._bytes + len(line), b""
        self._entries.append(entry)

    def _conflict(self, what: str) -> JobConflict:
        return JobConflict(
            f"{self._state.url}: the job there {what}, so it cannot go on; "
            "write to another output, or remove this folder and the output to begin anew"
        )


def _line(entry: dict[str, Any]) -> bytes:
    """Write an entry, its digest last."""
    body = json.dumps(entry, separators=(",", ":")).encode()[:-1]
    return body + _DIGEST + hashlib.sha256(body).hexdigest().encode() + b'"}\n'


def _parse(raw: bytes) -> list[dict[str, Any]]:
    """Read the lines, but for those that do not match their digests, or that no job writes though they do."""
    entries = []
    for line in raw.split(b"\n"):
        body, _, digest = line.rpartition(_DIGEST)
        if digest == hashlib.sha256(body).hexdigest().encode() + b'"}':
            with suppress(ValueError, RecursionError):
                entries.append(json.loads(body + b"}"))
    return [entry for entry in entries if isinstance(entry.get("what"), str)]


def _version_of(raw: bytes) -> object:
    """Tell the version of a journal by its first line; None where it tells none."""
    try:
        first = json.loads(raw.partition(b"\n")[0])
    except ValueError:
        return None
    return first.get("version") if isinstance(first, dict) else None
