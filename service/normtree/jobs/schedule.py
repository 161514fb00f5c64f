"""Which task may be done when: up-sweeps first, then the roots, then what hangs below; shards in their order."""

from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

import numpy as np

from normtree.jobs.checkpoint import Shard
from normtree.jobs.facts import Facts
from normtree.jobs.pieces import Copy, Done, Down, Lowered, Piece, Result, Task, Up, Whole, Work
from normtree.jobs.plan import JobPlan
from normtree.jobs.root import Top, top_of, tops_of
from normtree.jobs.work import finished, named
from normtree_kernels.dtypes import Float64Array

_MOST_PIECES = 256


@dataclass(frozen=True)
class Aggregated:
    """A tensor's up-sweep is done: its fibres' norms, row after row."""

    work: Work
    v: Float64Array


@dataclass(frozen=True)
class Written:
    """All of a shard's bytes are written, and this is known of its tensors."""

    shard: Shard
    facts: tuple[Facts, ...]


@dataclass
class _Split:
    """A tensor on its way up and down."""

    work: Work
    v: Float64Array
    rows_left: int
    top: Top | None = None
    lowered: dict[int, Lowered] = field(default_factory=dict)


class Schedule:
    """The tasks of a job that are ready, and those that become so.

    Args:
        plan: the plan.
        finished: shards that are in place already.
        kept: finds the aggregates that an earlier attempt has kept of a tensor.
        streams: whether the output wants each shard from its start to its end in one task.
    """

    def __init__(
        self, plan: JobPlan, finished: Collection[str], kept: Callable[[Work], Float64Array | None], *, streams: bool
    ) -> None:
        """Make the first tasks."""
        self._plan, self._streams = plan, streams
        self._shards = {shard.name: shard for shard in plan.checkpoint.shards if shard.name not in finished}
        self._left = {name: shard.stat.size for name, shard in self._shards.items()}
        self._facts: dict[str, list[Facts]] = {name: [] for name in self._shards}
        self._splits = self._begin(kept)
        self._ready: deque[Task] = deque()
        self._streamed: set[str] = set()
        for rule in self._global_rules:
            self._add_ups(split for split in self._splits.values() if split.work.rule == rule)
        for shard in self._shards.values():
            self._add_shard(shard)
        for split in list(self._splits.values()):
            if not split.rows_left:
                self._raise(split)

    def next(self) -> Task | None:
        """Take the next task that is ready."""
        return self._ready.popleft() if self._ready else None

    def done(self, done: Done) -> list[Aggregated | Written]:
        """Take in a task that is done, and tell what that completes."""
        events: list[Aggregated | Written] = []
        for piece, result in zip(done.task.pieces, done.results, strict=True):
            events += self._take(piece, result)
        name = done.task.shard
        if done.task.written:
            self._left[name] -= done.task.written
            if self._left[name] == 0:
                events.append(Written(self._shards[name], tuple(sorted(self._facts[name], key=self._place))))
        return events

    @property
    def _global_rules(self) -> list[int]:
        return [index for index, rule in enumerate(self._plan.recipe.rules) if rule.scope == "global"]

    def _begin(self, kept: Callable[[Work], Float64Array | None]) -> dict[str, _Split]:
        """Set up the tensors that are split, with what is kept of them; those of other shards where roots want them."""
        splits = {}
        for work in self._plan.works:
            is_global = work.rule in self._global_rules
            if self._plan.is_split(work) and (work.shard in self._shards or (is_global and self._wanted(work.rule))):
                found = kept(work)
                v = np.empty(work.layout.v_shape) if found is None else found
                splits[work.key] = _Split(work, v, work.layout.rows if found is None else 0)
        return splits

    def _wanted(self, rule: int) -> bool:
        return any(work.rule == rule and work.shard in self._shards for work in self._plan.works)

    def _add_ups(self, splits: Iterable[_Split]) -> None:
        for split in splits:
            if split.rows_left:
                size = self._size(split.work.shard)
                self._ready.extend(Task(split.work.shard, size, (up,)) for up in self._plan.ups(split.work))

    def _add_shard(self, shard: Shard) -> None:
        """Add what can be done of a shard without waiting for a root."""
        batch: list[Piece] = []
        for piece in self._plan.pieces(shard):
            if isinstance(piece, Work):
                if piece.rule not in self._global_rules:
                    self._flush(shard, batch)
                    self._add_ups([self._splits[piece.key]])
            elif not self._streams:
                batch.append(piece)
                if sum(map(_nbytes, batch)) >= self._plan.task_bytes or len(batch) >= _MOST_PIECES:
                    self._flush(shard, batch)
        self._flush(shard, batch)
        if self._streams:
            self._stream(shard)

    def _flush(self, shard: Shard, batch: list[Piece]) -> None:
        if batch:
            self._ready.append(Task(shard.name, shard.stat.size, tuple(batch)))
            batch.clear()

    def _take(self, piece: Piece, result: Result) -> list[Aggregated | Written]:
        if isinstance(piece, Whole) and isinstance(result, Facts):
            self._facts[piece.work.shard].append(result)
        elif isinstance(piece, Up) and isinstance(result, np.ndarray):
            split = self._splits[piece.work.key]
            split.v[piece.first : piece.last] = result
            split.rows_left -= piece.last - piece.first
            if not split.rows_left:
                self._raise(split)
                return [Aggregated(split.work, split.v)]
        elif isinstance(piece, Down) and isinstance(result, Lowered):
            self._lower(self._splits[piece.work.key], piece, result)
        return []

    def _raise(self, split: _Split) -> None:
        """Find the root of a tensor whose up-sweep is done, or of its rule if it was the last."""
        if split.work.rule not in self._global_rules:
            with named(split.work):
                split.top = top_of(split.work.layout.norm, split.work.layout.to_norm(split.v), split.work.aim)
            self._add_downs(split)
            return
        together = [other for other in self._splits.values() if other.work.rule == split.work.rule]
        if any(other.rows_left for other in together) or split.top:
            return
        norms = [other.work.layout.norm for other in together]
        vs = [other.work.layout.to_norm(other.v) for other in together]
        for other, top in zip(together, tops_of(norms, vs, split.work.aim), strict=True):
            other.top = top
        for other in reversed(together):
            if other.work.shard in self._shards:
                self._add_downs(other)

    def _add_downs(self, split: _Split) -> None:
        """Add what hangs below a root, before all that is ready: its rows were read not long ago."""
        if self._streams:
            self._stream(self._shards[split.work.shard])
            return
        size = self._size(split.work.shard)
        tasks = [Task(split.work.shard, size, (down,)) for down in self._downs(split)]
        self._ready.extendleft(reversed(tasks))

    def _downs(self, split: _Split) -> list[Down]:
        if split.top is None:
            raise ValueError(f"{split.work.name}: its root is not known yet")
        u = split.work.layout.to_rows(split.top.crown.radii)
        return [Down(split.work, a, b, split.v[a:b], u[a:b]) for a, b in self._plan.slabs(split.work)]

    def _stream(self, shard: Shard) -> None:
        """Add the one task that writes a shard, when no root is missing."""
        pieces: list[Piece] = []
        for piece in self._plan.pieces(shard):
            if not isinstance(piece, Work):
                pieces.append(piece)
            elif self._splits[piece.key].top is None:
                return
            else:
                pieces += self._downs(self._splits[piece.key])
        if shard.name not in self._streamed:
            self._streamed.add(shard.name)
            self._ready.append(Task(shard.name, shard.stat.size, tuple(pieces)))

    def _lower(self, split: _Split, piece: Down, result: Lowered) -> None:
        split.lowered[piece.first] = result
        work = split.work
        if split.top and sum(len(part.v) for part in split.lowered.values()) == work.layout.rows:
            in_order = [split.lowered[first] for first in sorted(split.lowered)]
            facts = finished(work, work.layout.to_norm(split.v), split.top, in_order)
            self._facts[work.shard].append(facts)
            del self._splits[work.key]

    def _size(self, shard: str) -> int:
        return next(found.stat.size for found in self._plan.checkpoint.shards if found.name == shard)

    def _place(self, facts: Facts) -> int:
        return next(
            i for i, work in enumerate(self._plan.works) if (work.shard, work.name) == (facts.shard, facts.name)
        )


def _nbytes(piece: Piece) -> int:
    if isinstance(piece, Copy):
        return piece.stop - piece.start
    return piece.work.nbytes
