"""The plan of a job: which tensors which rules claim, how they are cut, what it will cost. Made from headers alone."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from normtree.errors import InvalidRecipe
from normtree.jobs.checkpoint import Checkpoint, Shard, is_projectable
from normtree.jobs.header import DTYPES, Entry
from normtree.jobs.layout import Layout
from normtree.jobs.pieces import Copy, Piece, Up, Whole, Work
from normtree.jobs.recipe import Recipe, Rule
from normtree.jobs.work import panel_bytes
from normtree_kernels.euclidean import merged, needs_own_algorithm
from normtree_kernels.norms import MixedNorm

MIB = 1 << 20
LEAST_TASK_BYTES, MOST_TASK_BYTES = MIB, 64 * MIB
_TASKS_A_WORKER = 8  # so that none waits long for the last of another
_AGGREGATE_COPIES = 4  # of the fibres' norms, at once, in float64: norms and radii, before and after
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
    """

    recipe: Recipe
    checkpoint: Checkpoint
    works: tuple[Work, ...]
    workers: int
    memory_bytes: int

    @property
    def projected_bytes(self) -> int:
        """Bytes of the tensors that are projected."""
        return sum(work.nbytes for work in self.works)

    @property
    def swept_up_bytes(self) -> int:
        """Bytes of the tensors that are read twice, for their root has to wait for several tasks."""
        return sum(work.nbytes for work in self.works if self.is_split(work))

    @property
    def buffer_bytes(self) -> int:
        """Memory that the workers' buffers and the aggregates will take at most."""
        heaviest = max((self._cost_bytes(work) for work in self.works), default=0)
        return self.workers * heaviest + self._kept_bytes

    @cached_property
    def task_bytes(self) -> int:
        """Bytes that a task handles, about."""
        share = self.checkpoint.shard_bytes // (_TASKS_A_WORKER * self.workers)
        return min(max(share, LEAST_TASK_BYTES), MOST_TASK_BYTES)

    def is_split(self, work: Work) -> bool:
        """Tell whether several tasks share a tensor, or several tensors a root."""
        if self.recipe.rules[work.rule].scope == "global":
            return True
        return not _at_once(work) and work.layout.rows > 1 and work.nbytes > self._whole_bytes

    def pieces(self, shard: Shard) -> Iterator[Piece | Work]:
        """Go through a shard's bytes in order: copies, whole tensors, and the works that are split."""
        copied = 0
        for work in self.works:
            if work.shard == shard.name:
                yield from self._copies(copied, work.start)
                yield work if self.is_split(work) else Whole(work)
                copied = work.start + work.nbytes
        yield from self._copies(copied, shard.stat.size)

    def slabs(self, work: Work) -> list[tuple[int, int]]:
        """Cut a tensor that is split into ranges of rows."""
        step = max(1, self.task_bytes // work.layout.row_bytes)
        rows = work.layout.rows
        return [(first, min(first + step, rows)) for first in range(0, rows, step)]

    def ups(self, work: Work) -> list[Up]:
        """Cut the up-sweep of a tensor that is split."""
        return [Up(work, first, last) for first, last in self.slabs(work)]

    def check_memory(self) -> None:
        """Refuse a tensor, or a rule, that the bound on memory is too small for.

        Raises:
            InvalidRecipe: it is; the bound that would do is told.
        """
        for work in self.works:
            need = self.workers * self._cost_bytes(work) + self._kept_bytes
            if need > self.memory_bytes:
                whole = "is projected in one piece" if work.layout.rows == 1 or _at_once(work) else "has long rows"
                raise InvalidRecipe(
                    f"{work.shard}: {work.name}: it {whole} under rule {work.rule} ({work.layout.norm}), and with "
                    f"{self.workers} workers that takes {need / MIB:,.0f} MiB of memory; "
                    f"got a bound of {self.memory_bytes / MIB:,.0f} MiB: raise it, or take fewer workers",
                    limit=self.memory_bytes,
                    got=need,
                )

    @property
    def _kept_bytes(self) -> int:
        """Aggregates that wait for the root of their rule."""
        globals_ = (work for work in self.works if self.recipe.rules[work.rule].scope == "global")
        return sum(_AGGREGATE_COPIES * _fibres_bytes(work) for work in globals_)

    @cached_property
    def _whole_bytes(self) -> int:
        """Largest tensor that one worker takes whole, if it could be split."""
        return min(2 * self.task_bytes, self.memory_bytes // (2 * self.workers))

    def _cost_bytes(self, work: Work) -> int:
        """Memory that one worker takes for a tensor at most: what it reads, what it writes, the fibres' norms."""
        panel = panel_bytes(work)
        read = panel if self.is_split(work) else work.nbytes
        aggregates = 0 if self._is_global(work) else _AGGREGATE_COPIES * _fibres_bytes(work)
        return read + panel + aggregates

    def _is_global(self, work: Work) -> bool:
        return self.recipe.rules[work.rule].scope == "global"

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
        for index, rule in enumerate(self.recipe.rules):
            lines += self._rule_lines(index, rule)
        if self.checkpoint.unprojected:
            names = ", ".join(self.checkpoint.unprojected)
            lines.append(f"note: copied as they are, though they seem to hold weights too: {names}")
        return "\n".join(lines)

    def _rule_lines(self, index: int, rule: Rule) -> list[str]:
        works = [work for work in self.works if work.rule == index]
        exact = ", exact" if rule.exact else ""
        title = f"rules[{index}] {rule.tensors!r}: {rule.norm}, {rule.goal}, scope {rule.scope}{exact}"
        shapes = Counter((work.layout.shape, work.layout.dtype, work.layout.norm.axes_text) for work in works)
        lines = [f"{title}: {len(works)} tensors, {sum(work.nbytes for work in works):,} bytes"]
        for (shape, dtype, axes), count in shapes.most_common(_SHOWN_TENSORS):
            lines.append(f"    {count:5} of {'×'.join(map(str, shape))} {dtype}, axes {axes}")
        if len(shapes) > _SHOWN_TENSORS:
            lines.append(f"          and {len(shapes) - _SHOWN_TENSORS} shapes more")
        return lines


def make_plan(recipe: Recipe, checkpoint: Checkpoint, workers: int, memory_bytes: int) -> JobPlan:
    """Bind a recipe to a checkpoint.

    Args:
        recipe: the recipe.
        checkpoint: its input, read.
        workers: tasks at once, >= 1.
        memory_bytes: bound of all buffers and aggregates together.

    Raises:
        InvalidRecipe: a rule that matches nothing, a tensor that two rules claim, one that cannot be projected so,
            or a bound on memory that is too small.
    """
    works = []
    for shard in checkpoint.shards:
        for entry in shard.entries:
            claimed = _claim(recipe, entry)
            if claimed is not None and entry.nbytes:
                works.append(_bind(recipe, claimed, shard.name, entry))
    names = [entry.name for shard in checkpoint.shards for entry in shard.entries]
    for index, rule in enumerate(recipe.rules):
        if not any(rule.claims(name) for name in names):
            raise InvalidRecipe(
                f"rules[{index}].tensors: {rule.tensors!r} matches none of the {len(names)} tensors of {recipe.input}",
                pointer=f"rules[{index}].tensors",
                got=rule.tensors,
            )
    plan = JobPlan(recipe, checkpoint, tuple(works), workers, memory_bytes)
    plan.check_memory()
    return plan


def _claim(recipe: Recipe, entry: Entry) -> int | None:
    claims = [index for index, rule in enumerate(recipe.rules) if rule.claims(entry.name)]
    if len(claims) > 1 and recipe.overlap == "refuse":
        names = " and ".join(f"rules[{index}]" for index in claims)
        raise InvalidRecipe(
            f'tensor {entry.name!r} is claimed by {names}; with overlap = "first" the first would win',
            pointer=f"rules[{claims[1]}].tensors",
        )
    return claims[0] if claims else None


def _bind(recipe: Recipe, index: int, shard: str, entry: Entry) -> Work:
    rule = recipe.rules[index]
    try:
        if not is_projectable(entry):
            raise ValueError(f"wanted an element type of {', '.join(DTYPES)}, got {entry.code}")
        norm = MixedNorm.parse(rule.norm, rule.axes, ndim=len(entry.shape))
        own = rule.exact and needs_own_algorithm(norm, rule.aim.for_norm(1.0))
        if rule.aim.goal and rule.scope == "tensor":
            rule.aim.goal.check_fits(norm, entry.shape)
    except ValueError as error:
        raise InvalidRecipe(
            f"{shard}: tensor {entry.name!r}, claimed by rules[{index}]: {error}", pointer=f"rules[{index}]"
        ) from None
    layout = Layout(entry.shape, DTYPES[entry.code], merged(norm) if own else norm)
    return Work(entry.name, shard, entry.start, layout, index, rule.aim, own)


def _at_once(work: Work) -> bool:
    """Tell whether a tensor must be in memory as a whole: to sort its elements, or for Newton's steps over it."""
    goal = work.aim.goal
    return work.own or (len(work.layout.norm.levels) == 1 and goal is not None and goal.radius is None)


def _fibres_bytes(work: Work) -> int:
    fibres: int = math.prod(work.layout.v_shape)
    return 8 * fibres
