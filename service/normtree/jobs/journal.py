"""The journal of a job: what it was asked, what its input was, and what of it is done. Killed jobs resume from it.

It lies in a folder beside the output, ``OUTPUT.normtree``: one JSON object a line, each synced before the job goes
on, and the aggregates of tensors whose root needs many of them. Half a last line is as good as none.
"""

import json
from collections.abc import Mapping
from typing import Any

from normtree.errors import JobConflict
from normtree.jobs.aggregates import of_bytes, to_bytes
from normtree.jobs.facts import Facts
from normtree.jobs.state import State
from normtree_kernels.dtypes import Float64Array

NAME = "journal.jsonl"
VERSION = 1
_AGGREGATES = "aggregates"


class Journal:
    """The journal of one output.

    Args:
        state: the folder it is in, locked by the caller.
    """

    def __init__(self, state: State) -> None:
        """Read what is there."""
        self._state = state
        self._entries = _parse(state.read(NAME) or b"")

    @property
    def begun(self) -> bool:
        """Whether a job has been here before."""
        return bool(self._entries)

    @property
    def completed(self) -> dict[str, Any] | None:
        """What was noted when all was done; None while it is not."""
        return next((entry for entry in self._entries if entry["what"] == "completed"), None)

    @property
    def finished(self) -> dict[str, tuple[Facts, ...]]:
        """The shards that are in place, and what is known of their tensors."""
        shards = (entry for entry in self._entries if entry["what"] == "shard")
        return {entry["name"]: tuple(map(Facts.of_dict, entry["facts"])) for entry in shards}

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
        if first.get("version") != VERSION:
            raise self._conflict(f"was written by another version of normtree ({first.get('version')})")
        if first["recipe"] != recipe:
            raise self._conflict("was begun with another recipe")
        changed = sorted(
            name for name in first["input"].keys() | versions.keys() if first["input"].get(name) != versions.get(name)
        )
        if changed:
            raise self._conflict(f"was begun with another input: {', '.join(changed)} changed since")

    def note_shard(self, name: str, facts: tuple[Facts, ...], stints: list[dict[str, Any]]) -> None:
        """Note that a shard is in place."""
        self._note({"what": "shard", "name": name, "facts": [each.as_dict() for each in facts], "stints": stints})

    def note_completed(self, summary: Mapping[str, Any]) -> None:
        """Note that all is done."""
        self._note({"what": "completed", **summary})

    def keep(self, vs: Mapping[int, Float64Array]) -> None:
        """Keep aggregates of tensors, by their indices; what one task has made is one file."""
        self._state.write(f"{_AGGREGATES}/{min(vs)}", to_bytes(vs))

    def kept(self, shapes: Mapping[int, tuple[int, ...]]) -> dict[int, Float64Array]:
        """Return the aggregates that were kept of tensors, by their indices; what is damaged was not kept.

        Args:
            shapes: of the tensors that are asked for.
        """
        found: dict[int, Float64Array] = {}
        for name in self._state.names(_AGGREGATES):
            found |= of_bytes(self._state.read(name) or b"", shapes)
        return found

    def drop_aggregates(self) -> None:
        """Remove aggregates that nothing needs any more."""
        for name in self._state.names(_AGGREGATES):
            self._state.remove(name)

    def _note(self, entry: dict[str, Any]) -> None:
        self._state.append(NAME, json.dumps(entry, separators=(",", ":")).encode() + b"\n")
        self._entries.append(entry)

    def _conflict(self, what: str) -> JobConflict:
        return JobConflict(
            f"{self._state.url}: the job there {what}, so it cannot go on; "
            "write to another output, or remove this folder and the output to begin anew"
        )


def _parse(raw: bytes) -> list[dict[str, Any]]:
    """Read the lines, but for those of which a killed job has left only half."""
    entries = []
    for line in raw.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and "what" in entry:
            entries.append(entry)
    return entries
