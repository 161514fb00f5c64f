"""Which task may be done when: up-sweeps first, then the roots, then what hangs below; shards in their order."""

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter

from normtree.jobs.checkpoint import Shard
from normtree.jobs.facts import Facts
from normtree.jobs.pieces import Ask, Done, Down, Lowered, Piece, Swept, Task, Up, Whole, Work
from normtree.jobs.plan import JobPlan
from normtree.jobs.questions import Answer, Gathered, fold, inside
from normtree.jobs.root import Top, tops_of
from normtree.jobs.search import Found, Search, search
from normtree.jobs.work import finished, joined, named
from normtree_kernels.dtypes import Float64Array

_MOST_PIECES = 256


@dataclass(frozen=True)
class Aggregated:
    """Up-sweeps that are done: tensors' fibres' norms, (rows, width, rest…), by the tensors' indices."""

    vs: Mapping[int, Float64Array]


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
    found: Found | None = None
    lowered: list[Lowered] = field(default_factory=list)


@dataclass
class _Together:
    """The tensors of a rule with one ball for all, and how many of them are still on their way up."""

    splits: list[_Split]
    rising: int


class Schedule:
    """The tasks of a job that are ready, and those that become so.

    Args:
        plan: the plan.
        finished: shards that are in place already.
        kept: finds the aggregates that an earlier attempt has kept of tensors, by their indices.
        streams: whether the output wants each shard from its start to its end in one task.
    """

    def __init__(
        self,
        plan: JobPlan,
        finished: Collection[str],
        kept: Callable[[Sequence[Work]], Mapping[int, Float64Array]],
        *,
        streams: bool,
    ) -> None:
        """Make the first tasks."""
        self._plan, self._streams = plan, streams
        self._shards = {shard.name: shard for shard in plan.checkpoint.shards if shard.name not in finished}
        self._sizes = {shard.name: shard.stat.size for shard in plan.checkpoint.shards}
        self._left = {name: self._sizes[name] for name in self._shards}
        self._facts: dict[str, list[tuple[int, Facts]]] = {name: [] for name in self._shards}
        self._splits = self._begin(kept)
        self._together = self._rules()
        self._rootless = Counter(split.work.shard for split in self._splits.values())
        self._ready: deque[Task] = deque()
        self.asked_bytes = 0  # of tensors that are read again for rounds of a search
        for together in self._together.values():
            self._ready.extend(self._tasks(self._ups(together.splits)))
        for shard in self._shards.values():
            self._add_shard(shard)
        self._go_on(self._raise_kept())

    def next(self) -> Task | None:
        """Take the next task that is ready."""
        return self._ready.popleft() if self._ready else None

    def done(self, done: Done) -> list[Aggregated | Written]:
        """Take in a task that is done, and tell what that completes."""
        events: list[Aggregated | Written] = []
        vs: dict[int, Float64Array] = {}
        following: list[Swept] = []
        for piece, result in zip(done.task.pieces, done.results, strict=True):
            if isinstance(piece, Whole) and isinstance(result, Facts):
                self._facts[piece.work.shard].append((piece.work.index, result))
            elif isinstance(piece, Up) and isinstance(result, tuple):
                following += self._aggregate(self._splits[piece.work.index], piece, result, vs)
            elif isinstance(piece, Ask) and isinstance(result, tuple):
                split = self._splits[piece.work.index]
                if split.gathered.take(piece.first, result):
                    following += self._search(split, split.gathered.whole)
            elif isinstance(piece, Down) and isinstance(result, Lowered):
                self._lower(self._splits[piece.work.index], piece, result)
        self._go_on(following)
        if vs:
            events.append(Aggregated(vs))
        name = done.task.shard
        if done.task.written:
            self._left[name] -= done.task.written
            if self._left[name] == 0:
                facts = sorted(self._facts.pop(name), key=itemgetter(0))
                events.append(Written(self._shards[name], tuple(each for _, each in facts)))
        return events

    def _begin(self, kept: Callable[[Sequence[Work]], Mapping[int, Float64Array]]) -> dict[int, _Split]:
        """Set up the tensors that are split, with what is kept of them; those of other shards where roots want them."""
        plan = self._plan
        wanted = {work.rule for work in plan.works if work.rule in plan.global_rules and work.shard in self._shards}
        works = [
            work for work in plan.works if plan.is_split(work) and (work.shard in self._shards or work.rule in wanted)
        ]
        vs = kept(works)
        return {work.index: _Split(work, vs.get(work.index), Gathered(work.cut)) for work in works}

    def _rules(self) -> dict[int, _Together]:
        rules: dict[int, _Together] = {}
        for split in self._splits.values():
            if split.work.rule in self._plan.global_rules:
                together = rules.setdefault(split.work.rule, _Together([], 0))
                together.splits.append(split)
                together.rising += split.v is None
        return rules

    def _ups(self, splits: Iterable[_Split]) -> Iterator[Up]:
        """What is to be swept up of tensors of which nothing is kept."""
        for split in splits:
            if split.v is None:
                yield from self._plan.ups(split.work)

    def _add_shard(self, shard: Shard) -> None:
        """Add what can be done of a shard without waiting for a root."""
        ready: list[Piece] = []
        for piece in self._plan.pieces(shard):
            if not isinstance(piece, Work):
                ready.append(piece)
            elif piece.rule not in self._together:
                ready += self._ups([self._splits[piece.index]])
        if not self._streams:
            self._ready.extend(self._bundled(shard.name, ready))
        else:
            self._ready.extend(self._bundled(shard.name, [piece for piece in ready if isinstance(piece, Up)]))
            self._stream(shard)

    def _go_on(self, pieces: list[Swept]) -> None:
        """Add what follows on what is done, before all that is ready: its panels were read not long ago."""
        self._ready.extendleft(reversed(list(self._tasks(pieces))))

    def _tasks(self, pieces: Iterable[Swept]) -> Iterator[Task]:
        for shard, here in groupby(pieces, key=lambda piece: piece.work.shard):
            yield from self._bundled(shard, here)

    def _bundled(self, shard: str, pieces: Iterable[Piece]) -> Iterator[Task]:
        """Put pieces of a shard together to tasks: small ones in one, and what only reads apart from what writes."""
        most_bytes = self._plan.task_bytes
        bundle: list[Piece] = []
        nbytes = 0
        for piece in pieces:
            is_full = len(bundle) >= _MOST_PIECES or 2 * nbytes >= most_bytes < nbytes + piece.nbytes
            if bundle and (is_full or isinstance(piece, Up | Ask) != isinstance(bundle[-1], Up | Ask)):
                yield Task(shard, self._sizes[shard], tuple(bundle))
                bundle, nbytes = [], 0
            bundle.append(piece)
            nbytes += piece.nbytes
        if bundle:
            yield Task(shard, self._sizes[shard], tuple(bundle))

    def _raise_kept(self) -> list[Swept]:
        """Begin the searches of tensors of which all is kept that they need."""
        following: list[Swept] = []
        for together in self._together.values():
            if not together.rising:
                following += self._raise_together(together)
        for split in list(self._splits.values()):
            if split.v is not None and split.work.rule not in self._together:
                following += self._begin_search(split, None)
        return following

    def _aggregate(
        self, split: _Split, piece: Up, answers: tuple[Answer, ...], vs: dict[int, Float64Array]
    ) -> list[Swept]:
        """Take in a part of an up-sweep; what follows if it was the last of its tensor, whose norms are put to others.

        Below one ball for all tensors of a rule, that is nothing until the last of them is up.
        """
        if not split.gathered.take(piece.first, answers):
            return []
        split.v = vs[split.work.index] = fold(split.work.layout.norm.inner.norm, split.gathered.whole[0])
        together = self._together.get(split.work.rule)
        if together is None:
            return self._begin_search(split, None)
        together.rising -= 1
        return [] if together.rising else self._raise_together(together)

    def _raise_together(self, together: _Together) -> list[Swept]:
        splits, together.splits = together.splits, []
        vs = [split.work.layout.to_norm(split.v) for split in splits if split.v is not None]
        tops = tops_of([split.work.layout.norm for split in splits], vs, splits[0].work.aim)
        return [piece for split, top in zip(splits, tops, strict=True) for piece in self._begin_search(split, top)]

    def _begin_search(self, split: _Split, top: Top | None) -> list[Swept]:
        if split.v is None:
            raise ValueError(f"{split.work.name}: its norms are not known yet")
        if split.work.shard not in self._shards:  # it is written; only others' root wanted its norms
            del self._splits[split.work.index]
            return []
        split.search = search(split.work, split.v, top)
        return self._search(split, None)

    def _search(self, split: _Split, answer: Answer | None) -> list[Swept]:
        """Take a step of a search: ask all panels, or go down with what was found."""
        if split.search is None:
            raise ValueError(f"{split.work.name}: no search has begun")
        work, cut = split.work, split.work.cut
        try:
            with named(work):
                question = next(split.search) if answer is None else split.search.send(answer)
        except StopIteration as found:
            split.found, split.search = found.value, None
            split.gathered = Gathered(cut)
            return self._descend(split)
        split.gathered = Gathered(cut, is_added=question.is_added, by_chunk=question.by_chunk)
        self.asked_bytes += work.nbytes
        return [Ask(work, a, b, question.within(cut.box(a, b))) for a, b in self._plan.slabs(work)]

    def _descend(self, split: _Split) -> list[Swept]:
        """Go down; where a shard is written from its start to its end, with all of it and when no root is missing."""
        self._rootless[split.work.shard] -= 1
        if not self._streams:
            return list(self._downs(split))
        self._stream(self._shards[split.work.shard])
        return []

    def _downs(self, split: _Split) -> Iterator[Down]:
        if split.found is None:
            raise ValueError(f"{split.work.name}: its balls are not known yet")
        balls = split.found.balls
        for a, b in self._plan.slabs(split.work):
            box = split.work.cut.box(a, b)
            yield Down(split.work, a, b, tuple(inside(values, box) for values in balls))

    def _stream(self, shard: Shard) -> None:
        """Add the one task that writes a shard, when no root is missing."""
        if self._rootless[shard.name]:
            return
        pieces: list[Piece] = []
        for piece in self._plan.pieces(shard):
            pieces += self._downs(self._splits[piece.index]) if isinstance(piece, Work) else [piece]
        self._ready.append(Task(shard.name, self._sizes[shard.name], tuple(pieces)))

    def _lower(self, split: _Split, piece: Down, result: Lowered) -> None:
        split.lowered.append(Lowered((), result.squares, result.nonzero))
        work = split.work
        if split.gathered.take(piece.first, tuple((norms,) for norms in result.norms)):
            if split.found is None or split.v is None:
                raise ValueError(f"{work.name}: written before its balls were known")
            facts = finished(work, split.v, split.found.top, split.gathered.whole[0], joined(split.lowered))
            self._facts[work.shard].append((work.index, facts))
            del self._splits[work.index]
