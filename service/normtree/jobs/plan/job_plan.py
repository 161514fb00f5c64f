"""The plan of a job: which tensors which rules claim, how they are cut, what it will cost. Made from headers alone."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

from normtree.errors import InvalidRecipe
from normtree.jobs.checkpoint.checkpoint import Checkpoint, Shard
from normtree.jobs.plan.claims import claims_of, works_of
from normtree.jobs.plan.cut import MOST_PANEL_BYTES, Cut
from normtree.jobs.plan.pieces import Copy, Piece, TensorWork, Whole
from normtree.jobs.recipe import Recipe, Rule
from normtree_kernels.sweeps.threshold import SAMPLE

MIB = 1 << 20
LEAST_TASK_BYTES, MOST_TASK_BYTES = MIB, 64 * MIB
_TASKS_A_WORKER = 8  # so that none waits long for the last of another
_AGGREGATE_COPIES = 4  # of the fibres' norms, at once, in float64: norms and radii, before and after
_PANELS_A_WORKER = 16  # of whole columns it holds eight: half of its memory then, the other for aggregates
_ROUNDS = 8  # of a search, as seen; each reads the tensor once
_SEARCH_BYTES = 1024  # of the search for one fibre's threshold
_SHOWN_TENSORS = 8


@dataclass(frozen=True)
class JobPlan:
    """What a job would do.

    Args:
        recipe: the recipe.
        checkpoint: its input.
        works: the tensors to project, in the order of their bytes.
        workers: tasks at once.
        memory_bytes: bound of all buffers and aggregates together.
        asked_workers: tasks at once that were asked for; fewer are done where memory holds no more.
    """

    recipe: Recipe
    checkpoint: Checkpoint
    works: tuple[TensorWork, ...]
    workers: int
    memory_bytes: int
    asked_workers: int

    @cached_property
    def notes(self) -> list[str]:
        """What a person should know of it that nobody asked."""
        entries = [entry for shard in self.checkpoint.shards for entry in shard.entries]
        left = [sum(rule.claims(e.name) and not rule.fits(e) for e in entries) for rule in self.recipe.rules]
        found = [
            f"rules[{index}] means {count} tensors more that {self.recipe.rules[index].norm} does not fit: "
            "they are left as they are"
            for index, count in enumerate(left)
            if count
        ]
        return found + self.checkpoint.notes({(work.shard, work.name): work.rule for work in self.works})

    @cached_property
    def global_rules(self) -> frozenset[int]:
        """The rules whose tensors have one ball together."""
        return frozenset(index for index, rule in enumerate(self.recipe.rules) if rule.scope == "global")

    @cached_property
    def works_in(self) -> Mapping[str, list[TensorWork]]:
        """The tensors to project of each shard that has some, in the order of their bytes."""
        found: dict[str, list[TensorWork]] = {}
        for work in self.works:
            found.setdefault(work.shard, []).append(work)
        return found

    @cached_property
    def projected_bytes(self) -> int:
        """Bytes of the tensors that are projected."""
        return sum(work.nbytes for work in self.works)

    @cached_property
    def swept_up_bytes(self) -> int:
        """Bytes of the tensors that are read twice, for their root has to wait for several tasks."""
        return sum(work.nbytes for work in self.works if self.is_split(work))

    @cached_property
    def round_bytes(self) -> int:
        """Bytes that are read again in the rounds of searches, about."""
        return sum(map(self.round_bytes_of, self.works))

    @cached_property
    def buffer_bytes(self) -> int:
        """Memory that the workers' buffers and the aggregates will take at most.

        As many tensors are worked on as there are workers; several workers may share one, and its aggregates.
        """
        buffers = [self._buffer_bytes(work) for work in self.works]
        aggregates = [self._waiting_bytes(work) for work in self.works]
        apart = self.workers * max(map(sum, zip(buffers, aggregates, strict=True)), default=0)
        shared = self.workers * max(buffers, default=0) + sum(aggregates)
        return min(apart, shared) + self._kept_bytes

    @property
    def fits(self) -> bool:
        """Whether that is within the bound."""
        return self.buffer_bytes <= self.memory_bytes

    @cached_property
    def task_bytes(self) -> int:
        """Bytes that a task handles, about."""
        share = self.checkpoint.shard_bytes // (_TASKS_A_WORKER * self.workers)
        return min(max(share, LEAST_TASK_BYTES), MOST_TASK_BYTES)

    def is_split(self, work: TensorWork) -> bool:
        """Tell whether several tasks share a tensor, or several tensors a root."""
        return work.rule in self.global_rules or (work.cut.count > 1 and not self._fits_whole(work))

    def is_in_rounds(self, work: TensorWork) -> bool:
        """Tell whether a tensor that is split is read several times more, between its sweeps."""
        return self.is_split(work) and (work.own or _searches(work.cut))

    def round_bytes_of(self, work: TensorWork) -> int:
        """Bytes of a tensor that are read again in rounds, about."""
        return _ROUNDS * work.nbytes if self.is_in_rounds(work) else 0

    def pieces(self, shard: Shard) -> Iterator[Piece | TensorWork]:
        """Go through a shard's bytes in order: copies, whole tensors, and the works that are split."""
        copied = 0
        for work in self.works_in.get(shard.name, ()):
            yield from self._copies(copied, work.start)
            yield work if self.is_split(work) else Whole(work)
            copied = work.start + work.nbytes
        yield from self._copies(copied, shard.stat.size)

    def slabs(self, work: TensorWork) -> list[tuple[int, int]]:
        """Cut a tensor that is split into ranges of panels, a task each."""
        step, count = max(1, self.task_bytes // work.cut.panel_bytes), work.cut.count
        return [(first, min(first + step, count)) for first in range(0, count, step)]

    def too_large(self) -> InvalidRecipe:
        """Return the error for a tensor, or tensors together, that the bound on memory is too small for."""
        work = max(self.works, key=lambda work: self._buffer_bytes(work) + self._waiting_bytes(work))
        workers = "1 worker" if self.workers == 1 else f"{self.workers} workers"
        return InvalidRecipe(
            f"{work.shard}: {work.name}: {self._why(work)} under rule {work.rule} ({work.layout.norm}), "
            f"and with {workers} that takes {self.buffer_bytes / MIB:,.1f} MiB of memory; "
            f"got a bound of {self.memory_bytes / MIB:,.1f} MiB: raise it",
            limit=self.memory_bytes,
            got=self.buffer_bytes,
        )

    def _why(self, work: TensorWork) -> str:
        if not self.is_split(work):
            return "it is projected in one piece"
        fibres = math.prod(work.layout.v_shape)
        return f"it has {fibres:,} fibres and is cut into no less than {work.cut.panel_bytes / MIB:,.1f} MiB"

    @cached_property
    def _kept_bytes(self) -> int:
        """Aggregates that wait for the root of their rule."""
        return sum(_aggregate_bytes(work.cut) for work in self.works if work.rule in self.global_rules)

    def _fits_whole(self, work: TensorWork) -> bool:
        """Tell whether one worker had better take a tensor whole: it is read but once then."""
        return work.nbytes <= 2 * self.task_bytes and _whole_bytes(work) <= self.memory_bytes // (2 * self.workers)

    def _buffer_bytes(self, work: TensorWork) -> int:
        """Memory that each worker on a tensor takes at most: for what it reads and what it writes."""
        if not self.is_split(work):
            return _whole_bytes(work)
        copies = 4 if _searches(work.cut) else 2  # packed ones of both
        return copies * work.cut.panel_bytes

    def _waiting_bytes(self, work: TensorWork) -> int:
        """Aggregates of a tensor that several workers share; those that wait for a rule's root are counted apart."""
        return _aggregate_bytes(work.cut) if self.is_split(work) and work.rule not in self.global_rules else 0

    @staticmethod
    def _copies(start: int, stop: int) -> Iterator[Copy]:
        for at in range(start, stop, 4 * MOST_TASK_BYTES):
            yield Copy(at, min(at + 4 * MOST_TASK_BYTES, stop))

    def __str__(self) -> str:
        """The plan as a person reads it."""
        lines = [
            f"{self.recipe.input} -> {self.recipe.output}",
            f"{len(self.checkpoint.shards)} shards, {self.checkpoint.nbytes:,} bytes, "
            f"{sum(len(shard.entries) for shard in self.checkpoint.shards)} tensors: {len(self.works)} projected "
            f"({self.projected_bytes:,} bytes), the others copied; {len(self.checkpoint.others)} other files copied",
        ]
        if self.workers < self.asked_workers:
            lines.append(
                f"{self.workers} of {self.asked_workers} workers: more would take more than "
                f"{self.memory_bytes / MIB:,.0f} MiB of memory"
            )
        works: list[list[TensorWork]] = [[] for _ in self.recipe.rules]
        for work in self.works:
            works[work.rule].append(work)
        for index, rule in enumerate(self.recipe.rules):
            lines += self._rule_lines(index, rule, works[index])
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def _rule_lines(self, index: int, rule: Rule, works: list[TensorWork]) -> list[str]:
        exact = ", exact" if rule.exact else ""
        title = f"rules[{index}] {rule.tensors!r}: {rule.norm}, {rule.goal}, scope {rule.scope}{exact}"
        shapes = Counter(
            (work.layout.shape, work.layout.dtype, work.layout.norm.axes_text, self._how(work)) for work in works
        )
        lines = [f"{title}: {len(works)} tensors, {sum(work.nbytes for work in works):,} bytes"]
        for (shape, dtype, axes, how), count in shapes.most_common(_SHOWN_TENSORS):
            lines.append(f"    {count:5} of {'×'.join(map(str, shape))} {dtype}, axes {axes}{how}")
        if len(shapes) > _SHOWN_TENSORS:
            lines.append(f"          and {len(shapes) - _SHOWN_TENSORS} shapes more")
        return lines

    def _how(self, work: TensorWork) -> str:
        """Say how a tensor is shared among workers, where it is."""
        if not self.is_split(work):
            large = work.nbytes > 2 * self.task_bytes
            return f", in one piece of {_whole_bytes(work) / MIB:,.0f} MiB of memory" if large else ""
        tasks = len(self.slabs(work))
        across = " across fibres" if work.cut.is_across else ""
        rounds = ", read again in rounds" if self.is_in_rounds(work) else ""
        return f", split{across} into {tasks} tasks{rounds}" if tasks > 1 else ""


def make_plan(
    recipe: Recipe, checkpoint: Checkpoint, workers: int, bounds_bytes: Sequence[int], *, in_order: bool = False
) -> JobPlan:
    """Bind a recipe to a checkpoint.

    Args:
        recipe: the recipe.
        checkpoint: its input, read.
        workers: tasks at once, >= 1; fewer where the bound on memory wants it.
        bounds_bytes: of all buffers and aggregates together: the first that one worker at least keeps to is taken.
        in_order: whether files are read or written from their start to their end.

    Raises:
        InvalidRecipe: a rule that matches nothing, a tensor that two rules claim, one that cannot be projected so,
            or a bound on memory that is too small.
    """
    claims = claims_of(recipe, checkpoint)

    def bind(count: int, bound_bytes: int) -> JobPlan:
        panel_bytes = min(MOST_PANEL_BYTES, bound_bytes // (_PANELS_A_WORKER * count))
        works = works_of(recipe, claims, panel_bytes, in_order=in_order)
        return JobPlan(recipe, checkpoint, tuple(works), count, bound_bytes, workers)

    for bound_bytes in bounds_bytes:
        plan = _most_workers(partial(bind, bound_bytes=bound_bytes), workers)
        if plan.fits:
            return plan
    raise plan.too_large()


def _most_workers(bind: Callable[[int], JobPlan], most: int) -> JobPlan:
    """Find the plan with the most workers that fits, by halves; one with a single worker if none does."""
    plan = bind(most)
    if plan.fits or most == 1:
        return plan
    low, high, plan = 1, most, bind(1)
    while high - low > 1 and plan.fits:
        middle = (low + high) // 2
        tried = bind(middle)
        if tried.fits:
            low, plan = middle, tried
        else:
            high = middle
    return plan


def _whole_bytes(work: TensorWork) -> int:
    """Memory that a tensor takes when one worker projects it whole."""
    cut = work.cut.in_rows
    return work.nbytes + cut.panel_bytes + _aggregate_bytes(cut)


def _aggregate_bytes(cut: Cut) -> int:
    """Memory that the aggregates of a tensor take: of its fibres, and where it answers in chunks of these."""
    fibres = math.prod(cut.layout.v_shape)
    found = _AGGREGATE_COPIES * fibres * (1 + cut.slots if cut.in_chunks else 1)
    searched = fibres * (SAMPLE + _SEARCH_BYTES // 8) if _searches(cut) else 0
    return 8 * (found + searched)


def _searches(cut: Cut) -> bool:
    """Tell whether the fibres' balls are searched with questions."""
    return cut.in_chunks and cut.layout.norm.inner.norm.searches
