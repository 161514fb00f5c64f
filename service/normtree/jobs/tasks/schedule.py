"""Which task may be done when: up-sweeps first, then the roots, then what hangs below; shards in their order."""

import math
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Any

from normtree.errors import InvalidTensor
from normtree.jobs.checkpoint.checkpoint import Shard
from normtree.jobs.plan.facts import Facts, threshold_of
from normtree.jobs.plan.job_plan import JobPlan
from normtree.jobs.plan.pieces import AskPanels, Down, Lowered, Piece, Swept, Task, TaskDone, TensorWork, Whole
from normtree.jobs.tasks.panels import PanelAnswers
from normtree.jobs.tasks.perform import asking, finished, joined, threshold_alone
from normtree_kernels.dtypes import Float64Array
from normtree_kernels.parts.part import fold
from normtree_kernels.parts.questions import Shared
from normtree_kernels.tree.crown import crowns
from normtree_kernels.tree.projection import Asking, Found

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
    """A tensor on its way up, through the root and what else it asks, and down.

    Args:
        work: the tensor.
        asking: its projection.
        answers: to what it asked last, or of panels that are written.
        shared: its question for a root that it shares, while that waits for others.
        threshold: at the root.
        found: what its panels are projected by.
        lowered: what was measured of those that are written.
    """

    work: TensorWork
    asking: Asking[Found]
    answers: PanelAnswers = field(init=False)
    shared: Shared | None = None
    threshold: float | None = None
    found: Found | None = None
    lowered: list[Lowered] = field(default_factory=list)


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
        kept: Callable[[Sequence[TensorWork]], Mapping[int, Float64Array]],
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
        self._rising = {rule: len(splits) for rule, splits in self._together.items()}  # have not asked for their root
        self._rootless = Counter(split.work.shard for split in self._splits.values())
        self._ready: deque[Task] = deque()
        self.asked_bytes = 0  # of tensors that are read again for rounds of a search
        for splits in self._together.values():
            self._ready.extend(self._tasks([piece for split in splits for piece in self._step(split)]))
        for shard in self._shards.values():
            self._add_shard(shard)

    def next(self) -> Task | None:
        """Take the next task that is ready."""
        return self._ready.popleft() if self._ready else None

    def done(self, done: TaskDone) -> list[Aggregated | Written]:
        """Take in a task that is done, and tell what that completes."""
        events: list[Aggregated | Written] = []
        vs: dict[int, Float64Array] = {}
        following: list[Swept] = []
        for piece, result in zip(done.task.pieces, done.results, strict=True):
            if isinstance(piece, Whole) and isinstance(result, Facts):
                self._facts[piece.work.shard].append((piece.work.index, result))
            elif isinstance(piece, AskPanels) and isinstance(result, tuple):
                split = self._splits[piece.work.index]
                if split.answers.take(piece.first, result):
                    answer = split.answers.whole
                    if piece.is_up:
                        vs[piece.work.index] = fold(piece.work.norms.norm, answer[0])
                    following += self._step(split, answer)
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

    def _begin(self, kept: Callable[[Sequence[TensorWork]], Mapping[int, Float64Array]]) -> dict[int, _Split]:
        """Set up the tensors that are split, with what is kept of them; those of other shards where roots want them."""
        plan = self._plan
        wanted = {work.rule for work in plan.works if work.rule in plan.global_rules and work.shard in self._shards}
        works = [
            work for work in plan.works if plan.is_split(work) and (work.shard in self._shards or work.rule in wanted)
        ]
        vs = kept(works)
        shared = plan.global_rules
        return {
            work.index: _Split(work, asking(work, vs.get(work.index), is_shared=work.rule in shared)) for work in works
        }

    def _rules(self) -> dict[int, list[_Split]]:
        """The tensors of each rule that has one ball for all."""
        rules: dict[int, list[_Split]] = {}
        for split in self._splits.values():
            if split.work.rule in self._plan.global_rules:
                rules.setdefault(split.work.rule, []).append(split)
        return rules

    def _add_shard(self, shard: Shard) -> None:
        """Add what can be done of a shard without waiting for a root that several tensors share."""
        ready: list[Piece] = []
        for piece in self._plan.pieces(shard):
            if not isinstance(piece, TensorWork):
                ready.append(piece)
            elif piece.rule not in self._together:
                ready += self._step(self._splits[piece.index])
        if not self._streams:
            self._ready.extend(self._bundled(shard.name, ready))
        else:
            self._ready.extend(self._bundled(shard.name, [piece for piece in ready if isinstance(piece, AskPanels)]))
            if shard.name not in self._rootless:
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
            if bundle and (is_full or isinstance(piece, AskPanels) != isinstance(bundle[-1], AskPanels)):
                yield Task(shard, self._sizes[shard], tuple(bundle))
                bundle, nbytes = [], 0
            bundle.append(piece)
            nbytes += piece.nbytes
        if bundle:
            yield Task(shard, self._sizes[shard], tuple(bundle))

    def _step(self, split: _Split, answer: Any = None) -> list[Swept]:
        """Take a step of a projection: ask all panels, wait for others' norms, or go down with what was found."""
        work = split.work
        try:
            question = split.asking.send(answer)
        except StopIteration as end:
            split.found = end.value
            return self._descend(split, end.value)
        if isinstance(question, Shared):
            split.shared = question
            self._rising[work.rule] -= 1
            return [] if self._rising[work.rule] else self._share(work.rule)
        split.answers = PanelAnswers(work.cut, question)
        asks: list[Swept] = []
        for a, b in self._plan.slabs(work):
            here = work.cut.box(a, b).fibres
            asks.append(AskPanels(work, a, b, question.with_values([values[here] for values in question.values])))
        if question != work.norms:
            self.asked_bytes += work.nbytes
        return asks

    def _share(self, rule: int) -> list[Swept]:
        """Answer the tensors of a rule that share a root: the last of them has asked for it.

        Raises:
            InvalidTensor: their norm together overflows.
        """
        splits, self._together[rule] = self._together[rule], []  # each is let go when it is written
        vs = [split.shared.v for split in splits if split.shared]
        norms = [split.work.layout.norm for split in splits]
        tops = crowns(norms, vs, splits[0].work.aim)
        if not tops[0].is_finite:
            detail = f"the norm ({norms[0].text}) of the rule's tensors together overflows float64"
            raise InvalidTensor(detail, limit="a finite norm", got=math.inf)
        threshold = threshold_of(norms, vs, tops)
        following: list[Swept] = []
        for split, top in zip(splits, tops, strict=True):
            split.shared, split.threshold = None, threshold
            if split.work.shard in self._shards:
                following += self._step(split, top)
            else:  # it is written; only the others' root wanted its norms
                del self._splits[split.work.index]
        return following

    def _descend(self, split: _Split, found: Found) -> list[Swept]:
        """Go down; where a shard is written from its start to its end, with all of it and when no root is missing."""
        split.answers = PanelAnswers(split.work.cut, split.work.norms)
        if split.work.rule not in self._together:
            split.threshold = threshold_alone(split.work, found)
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
            here = split.work.cut.box(a, b).fibres
            yield Down(split.work, a, b, tuple(values[here] for values in balls))

    def _stream(self, shard: Shard) -> None:
        """Add the one task that writes a shard, when no root is missing."""
        if self._rootless[shard.name]:
            return
        pieces: list[Piece] = []
        for piece in self._plan.pieces(shard):
            pieces += self._downs(self._splits[piece.index]) if isinstance(piece, TensorWork) else [piece]
        self._ready.append(Task(shard.name, self._sizes[shard.name], tuple(pieces)))

    def _lower(self, split: _Split, piece: Down, result: Lowered) -> None:
        split.lowered.append(Lowered((), result.squares, result.nonzero))
        work = split.work
        if split.answers.take(piece.first, result.norms):
            if split.found is None:
                raise ValueError(f"{work.name}: written before its balls were known")
            facts = finished(work, split.found, split.threshold, split.answers, joined(split.lowered))
            self._facts[work.shard].append((work.index, facts))
            del self._splits[work.index]
