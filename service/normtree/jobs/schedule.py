"""Which task may be done when: up-sweeps first, then the roots, then what hangs below; shards in their order."""

from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from normtree.jobs.checkpoint import Shard
from normtree.jobs.facts import Facts
from normtree.jobs.pieces import Ask, Copy, Done, Down, Lowered, Piece, Result, Task, Up, Whole, Work
from normtree.jobs.plan import JobPlan
from normtree.jobs.questions import Answer, Gathered, Question, fold, inside
from normtree.jobs.root import Top, tops_of
from normtree.jobs.search import Found, Search, search
from normtree.jobs.work import finished, joined, named
from normtree_kernels.dtypes import Float64Array

_MOST_PIECES = 256


@dataclass(frozen=True)
class Aggregated:
    """A tensor's up-sweep is done: its fibres' norms, (rows, width, rest…)."""

    work: Work
    v: Float64Array


@dataclass(frozen=True)
class Written:
    """All of a shard's bytes are written, and this is known of its tensors."""

    shard: Shard
    facts: tuple[Facts, ...]


@dataclass
class _Split:
    """A tensor on its way up, through the root and its search's rounds, and down."""

    work: Work
    v: Float64Array | None
    gathered: Gathered
    search: Search | None = None
    question: Question | None = None
    found: Found | None = None
    lowered: list[Lowered] = field(default_factory=list)


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
        self.asked_bytes = 0  # of tensors that are read again for rounds of a search
        for rule in self._global_rules:
            self._add_ups(split for split in self._splits.values() if split.work.rule == rule)
        for shard in self._shards.values():
            self._add_shard(shard)
        for split in list(self._splits.values()):
            if split.v is not None and not split.search:
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
                splits[work.key] = _Split(work, kept(work), Gathered(work.cut))
        return splits

    def _wanted(self, rule: int) -> bool:
        return any(work.rule == rule and work.shard in self._shards for work in self._plan.works)

    def _add_ups(self, splits: Iterable[_Split]) -> None:
        for split in splits:
            if split.v is None:
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
        elif isinstance(piece, Up) and isinstance(result, tuple):
            return self._aggregate(self._splits[piece.work.key], piece, result)
        elif isinstance(piece, Ask) and isinstance(result, tuple):
            split = self._splits[piece.work.key]
            if split.gathered.take(piece.first, result):
                self._search(split, split.gathered.whole)
        elif isinstance(piece, Down) and isinstance(result, Lowered):
            self._lower(self._splits[piece.work.key], piece, result)
        return []

    def _aggregate(self, split: _Split, piece: Up, answers: tuple[Answer, ...]) -> list[Aggregated | Written]:
        if not split.gathered.take(piece.first, answers):
            return []
        split.v = fold(split.work.layout.norm.inner.norm, split.gathered.whole[0])
        self._raise(split)
        return [Aggregated(split.work, split.v)]

    def _raise(self, split: _Split) -> None:
        """Begin the search of a tensor whose up-sweep is done, or of all of its rule's if it was the last."""
        if split.work.rule not in self._global_rules:
            self._begin_search(split, None)
            return
        together = [other for other in self._splits.values() if other.work.rule == split.work.rule]
        vs = [other.work.layout.to_norm(other.v) for other in together if other.v is not None]
        if len(vs) < len(together) or split.search:
            return
        norms = [other.work.layout.norm for other in together]
        tops = tops_of(norms, vs, split.work.aim)
        for other, top in reversed(list(zip(together, tops, strict=True))):
            self._begin_search(other, top)

    def _begin_search(self, split: _Split, top: Top | None) -> None:
        if split.v is None:
            raise ValueError(f"{split.work.name}: its norms are not known yet")
        split.search = search(split.work, split.v, top)
        if split.work.shard in self._shards:
            self._search(split, None)

    def _search(self, split: _Split, answer: Answer | None) -> None:
        """Take a step of a search: ask all panels, or go down with what was found."""
        if split.search is None:
            raise ValueError(f"{split.work.name}: no search has begun")
        try:
            with named(split.work):
                question = next(split.search) if answer is None else split.search.send(answer)
        except StopIteration as found:
            split.found = found.value
            split.gathered = Gathered(split.work.cut)
            self._add_downs(split)
            return
        split.gathered = Gathered(split.work.cut, is_added=question.is_added, by_chunk=question.by_chunk)
        work, cut, size = split.work, split.work.cut, self._size(split.work.shard)
        asks = [Ask(work, a, b, question.within(cut.box(a, b))) for a, b in self._plan.slabs(work)]
        self._ready.extendleft(reversed([Task(work.shard, size, (ask,)) for ask in asks]))
        self.asked_bytes += work.nbytes

    def _add_downs(self, split: _Split) -> None:
        """Add what hangs below a root, before all that is ready: its panels were read not long ago."""
        if self._streams:
            self._stream(self._shards[split.work.shard])
            return
        size = self._size(split.work.shard)
        tasks = [Task(split.work.shard, size, (down,)) for down in self._downs(split)]
        self._ready.extendleft(reversed(tasks))

    def _downs(self, split: _Split) -> list[Down]:
        if split.found is None:
            raise ValueError(f"{split.work.name}: its balls are not known yet")
        work, (first, second) = split.work, split.found.balls
        boxes = [(a, b, work.cut.box(a, b)) for a, b in self._plan.slabs(work)]
        return [Down(work, a, b, (inside(first, box), inside(second, box))) for a, b, box in boxes]

    def _stream(self, shard: Shard) -> None:
        """Add the one task that writes a shard, when no root is missing."""
        pieces: list[Piece] = []
        for piece in self._plan.pieces(shard):
            if not isinstance(piece, Work):
                pieces.append(piece)
            elif self._splits[piece.key].found is None:
                return
            else:
                pieces += self._downs(self._splits[piece.key])
        if shard.name not in self._streamed:
            self._streamed.add(shard.name)
            self._ready.append(Task(shard.name, shard.stat.size, tuple(pieces)))

    def _lower(self, split: _Split, piece: Down, result: Lowered) -> None:
        split.lowered.append(Lowered((), result.squares, result.nonzero))
        work = split.work
        if split.gathered.take(piece.first, tuple((norms,) for norms in result.norms)):
            if split.found is None or split.v is None:
                raise ValueError(f"{work.name}: written before its balls were known")
            facts = finished(work, split.v, split.found.top, split.gathered.whole[0], joined(split.lowered))
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
