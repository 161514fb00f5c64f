"""Plans: how a projection will run, decided from shapes and the machine profile before any data is touched."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

import numpy as np

from normtree.engine.kernels import ACTIVE, CUT, LINES, Kernels, Lines
from normtree.engine.profile.cost import Prediction, Workload
from normtree.engine.profile.machine_profile import Engine, MachineProfile
from normtree.engine.profile.units import size_text
from normtree.splits import NO_SPLIT, Split
from normtree_kernels.norms.l1 import L1
from normtree_kernels.norms.mixed_norm import MixedNorm
from normtree_kernels.refusals import ValueRefused
from normtree_kernels.tree.blocks import Block, cut
from normtree_kernels.tree.exact import merged, needs_own_algorithm
from normtree_kernels.tree.goal import Goal
from normtree_kernels.tree.pieces import Piece, as_piece
from normtree_kernels.tree.projection import ProjectionProblem, ranks_elements

ENGINES = ("auto", "inline", "ray")
RAY_IS_AWAY = "Ray is away"

# Ray is taken although it is a little slower: work in the workers leaves the service's process to its sockets.
_RAY_TOLERANCE = 1.1

# A worker more is taken only where it is worth it.
_WORKER_TOLERANCE = 1.05

# More workers that make leaves no faster than this share of the time are held up by the memory.
_MEMORY_BOUND = 0.8
_CACHED_BYTES = 1 << 22  # tensors below that are held up by their smallness

_ROW = "{:<7}{:<6}{:<8}{:>13}{:>13}{:>8}{:>10}{:>10}{:>10}{:>7}"


@dataclass(frozen=True)
class Plan:
    """How one tensor will be projected.

    Args:
        shape: the tensor's shape, as it is seen.
        dtype: its element type, such as ``"float32"``.
        norm: mixed norm bound to its axes.
        goal: what the projection is to reach.
        exact: whether the fibres' radii are those of the Euclidean projection, by its own algorithm.
        engine: ``inline`` (threads of this process) or ``ray``.
        workers: leaves at once.
        reason: why this engine, and why not more workers.
        blocks: the leaves' blocks.
        predicted: what it would take on each engine that could run it; empty where nothing was predicted, since blocks
            lie where they lie.
        serial_ms: predicted wall on one thread, the modelled reference of a speed-up; 0 where nothing was predicted.
        may_move: whether another engine may take its place: nobody asked for this one.
        split: how the tensor is seen in that shape, where it is not its own.
    """

    shape: tuple[int, ...]
    dtype: str
    norm: MixedNorm
    goal: Goal
    exact: bool
    engine: Engine
    workers: int
    reason: str
    blocks: tuple[Block, ...]
    predicted: Mapping[Engine, Prediction]
    serial_ms: float
    may_move: bool = False
    split: Split = NO_SPLIT

    @property
    def own_shape(self) -> tuple[int, ...]:
        """The tensor's own shape."""
        return self.split.own(self.shape)

    @cached_property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def kept_shape(self) -> tuple[int, ...]:
        """Lengths of the axes that the innermost level keeps, in the norm's order."""
        return tuple(self.shape[axis] for axis in self.norm.kept_axes)

    @property
    def in_parts(self) -> bool:
        """Whether fibres are cut: every block is a part of all of them."""
        return self.blocks[0].part is not None

    @cached_property
    def problem(self) -> ProjectionProblem:
        """What there is to do."""
        whole, dtype = prod(self.shape[axis] for axis in self.norm.inner.axes), np.dtype(self.dtype)
        return ProjectionProblem(self.norm, whole, dtype, self.goal, own=self.exact, in_chunks=self.in_parts)

    @cached_property
    def pieces(self) -> list[Piece]:
        """The blocks, each as one piece, whatever its size."""
        return [as_piece(self.shape, self.norm, block) for block in self.blocks]

    @property
    def predicted_ms(self) -> dict[Engine, float]:
        """Predicted wall on each engine that could run it."""
        return {engine: prediction.wall_ms for engine, prediction in self.predicted.items()}

    def on_one_thread(self) -> "Plan":
        """The same on one thread of this process."""
        ranks = ranks_elements(self.norm, self.goal)
        return replace(self, engine="inline", workers=1, blocks=cut(self.shape, self.norm, 1, ranks=ranks))

    @property
    def kernels(self) -> frozenset[Kernels]:
        """What it runs."""
        work = Workload.of(self.shape, self.dtype, self.norm)
        lines: Lines = "columns" if work.leaf.layout == "columns" else "rows"  # others are packed to rows
        inner = self.norm.inner.norm.name
        uses = [inner, *((L1.name, ACTIVE) if self.exact else ())]
        leaves = {Kernels(use, self.dtype, lines) for use in uses}
        if self.in_parts:
            leaves |= {
                Kernels(CUT, self.dtype),
                *(Kernels(self.norm.inner.norm.name, "float64", each) for each in LINES),
            }
        return frozenset(leaves | {Kernels(level.norm, "float64") for level in work.root})

    def __str__(self) -> str:
        """A table for people: what, how and why, then a line a level, without times where none were predicted."""
        chosen = self.predicted.get(self.engine)
        lines = [
            f"tensor     {self._describe_tensor()} {self.dtype}, {size_text(self.nbytes)}",
            f"ball       {self.norm}, {self.goal}{', exact' if self.exact else ''}",
            f"engine     {self.engine} on {_count(self.workers, 'worker')}",
            f"why        {self.reason}",
            f"blocks     {self._describe_blocks()}",
            f"predicted  {self._describe_predicted()}",
            "",
            _ROW.format("level", "norm", "axes", "fibres", "length", "tasks", "up ms", "down ms", "ms", "share"),
        ]
        fibres = 1
        for index, level in enumerate(self.norm.levels):
            length = prod(self.shape[axis] for axis in level.axes)
            tasks = len(self.blocks) if level is self.norm.inner else 1
            axes = ".".join(map(str, level.axes)) or "-"
            what = (index, level.norm.name, axes, f"{fibres:,}", f"{length:,}", tasks)
            lines.append(_ROW.format(*what, *_times_of(chosen, index)))
            fibres *= length
        if chosen:
            lines.append(_ROW.format("engine", *[""] * 7, *_part(chosen.overhead_ms, chosen)))
        return "\n".join(lines)

    def _describe_predicted(self) -> str:
        """The wall on the engine, on others, and on one thread."""
        if self.engine not in self.predicted:
            return "nothing"
        others = [_describe(*each) for each in self.predicted.items() if each[0] != self.engine]
        walls = "; ".join([f"{self.predicted_ms[self.engine]:.2f} ms", *others])
        return f"{walls}; one thread {self.serial_ms:.2f} ms"

    def _describe_tensor(self) -> str:
        """Its lengths; and as what it is seen."""
        own = _times(self.own_shape) or "scalar"
        return f"{own}, seen as {_times(self.shape)}," if self.split.parts else own

    def _describe_blocks(self) -> str:
        """How many, along what, and how large."""
        count, first = len(self.blocks), self.blocks[0]
        if first.part and count > 1:
            longest = max(block.part[1] - block.part[0] for block in self.blocks if block.part)
            return f"{count} parts of each fibre, of at most {longest:,} elements"
        if first.axis is None or count == 1:
            return "1, the whole tensor"
        shape = list(self.shape)
        shape[first.axis] = max(block.stop - block.start for block in self.blocks)
        size = size_text(prod(shape) * np.dtype(self.dtype).itemsize)
        return f"{count} along axis {first.axis}, of at most {_times(shape)}, {size}"


def make_plan(
    shape: tuple[int, ...],
    dtype: str,
    norm: MixedNorm,
    goal: Goal,
    *,
    exact: bool = False,
    profile: MachineProfile,
    max_workers: int,
    engine: str = "auto",
    workers: int | None = None,
    away: bool = False,
) -> Plan:
    """Choose blocks and engine for a projection, predict its time and say why.

    Args:
        shape: the tensor's shape.
        dtype: its element type, such as ``"float32"``.
        norm: mixed norm bound to its axes.
        goal: what the projection is to reach.
        exact: whether it must be the Euclidean projection.
        profile: of the machine that will run it.
        max_workers: leaves that can run at once.
        engine: ``auto``, or the one that is asked for.
        workers: leaves at once, 1 to ``max_workers``; default: as many as make it faster.
        away: whether Ray is away, so that ``auto`` is not to take it.

    Raises:
        ValueError: an engine that is not known or not there, more workers than there are, a goal that cannot be
            reached, an exact projection that is not known.
    """
    goal.check_fits(norm, shape)
    own = exact and needs_own_algorithm(norm, goal)
    norm = merged(norm) if own else norm
    ranks = ranks_elements(norm, goal)
    cuts = {count: cut(shape, norm, count, ranks=ranks) for count in _counts(workers, max_workers)}
    work = Workload.of(shape, dtype, norm)
    options = {each: _best(work, profile, each, cuts) for each in profile.engines}
    chosen, reason = _choose(engine, options, away)
    serial = work.predict(profile, "inline", cut(shape, norm, 1, ranks=ranks), 1)
    return Plan(
        shape=shape,
        dtype=dtype,
        norm=norm,
        goal=goal,
        exact=own,
        engine=chosen.engine,
        workers=chosen.prediction.workers,
        reason="; ".join(part for part in (reason, chosen.reason) if part),
        blocks=chosen.blocks,
        predicted={each: option.prediction for each, option in options.items()},
        serial_ms=serial.wall_ms,
        may_move=engine == "auto",
    )


@dataclass(frozen=True)
class _Option:
    """One way to run it: an engine with a number of workers."""

    engine: Engine
    blocks: tuple[Block, ...]
    prediction: Prediction
    reason: str


def _best(work: Workload, profile: MachineProfile, engine: Engine, cuts: Mapping[int, tuple[Block, ...]]) -> _Option:
    """Find the fewest workers with which an engine is about as fast as it can be."""
    predictions = {count: work.predict(profile, engine, blocks, count) for count, blocks in cuts.items()}
    fastest = min(prediction.wall_ms for prediction in predictions.values())
    count = next(count for count, each in predictions.items() if each.wall_ms <= _WORKER_TOLERANCE * fastest)
    most = max(cuts)
    return _Option(
        engine, cuts[count], predictions[count], _why_not_more(work, predictions[count], predictions[most], cuts[most])
    )


def _why_not_more(work: Workload, chosen: Prediction, most: Prediction, blocks: tuple[Block, ...]) -> str:
    if chosen.workers == most.workers:
        return ""
    suffices = f"{_count(chosen.workers, 'worker')} suffice{'s' if chosen.workers == 1 else ''}"
    if len(blocks) <= chosen.workers:
        return f"{_count(len(blocks), 'block')}: {suffices}"
    bound = work.leaf.nbytes >= _CACHED_BYTES and most.leaves_ms >= _MEMORY_BOUND * chosen.leaves_ms
    return f"{'memory-bound' if bound else 'small'}: {suffices}"


def _counts(workers: int | None, max_workers: int) -> list[int]:
    """The numbers of workers to choose from."""
    if workers is None:
        return sorted({*(1 << i for i in range(max_workers.bit_length())), max_workers})
    if not 1 <= workers <= max_workers:
        raise ValueRefused("workers", f"1 to {max_workers}", workers)
    return [workers]


def _choose(engine: str, options: Mapping[Engine, _Option], away: bool) -> tuple[_Option, str]:
    if engine not in ENGINES:
        wanted = f"one of {', '.join(ENGINES)}"
        raise ValueRefused("engine", wanted, engine, f"wanted {wanted}, got {engine!r}")
    inline, ray = options["inline"], options.get("ray")
    if engine == "inline":
        return inline, "asked"
    if ray is None:
        if engine == "ray":
            why = "'ray' was asked for, but this service runs without Ray"
            raise ValueRefused("engine", "auto or inline", engine, why)
        return inline, "Ray is off"
    if engine == "ray":
        return ray, "asked"
    if away:
        return inline, RAY_IS_AWAY
    if ray.prediction.wall_ms <= _RAY_TOLERANCE * inline.prediction.wall_ms:
        return ray, "Ray is predicted within 10 % of inline, and leaves this process to its sockets"
    return inline, "below break-even: Ray's overhead would outweigh what it frees"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _describe(engine: Engine, prediction: Prediction) -> str:
    return f"{engine} {prediction.wall_ms:.2f} ms on {_count(prediction.workers, 'worker')}"


def _times(lengths: Sequence[int]) -> str:
    return " × ".join(map(str, lengths))


def _times_of(prediction: Prediction | None, level: int) -> tuple[str, ...]:
    """What a level takes up, down, together and of the wall."""
    if prediction is None:
        return ("-",) * 4
    up, down = prediction.sweeps_ms[level]
    return f"{up:.2f}", f"{down:.2f}", *_part(up + down, prediction)


def _part(ms: float, whole: Prediction) -> tuple[str, str]:
    """A time, and its share of the wall."""
    return f"{ms:.2f}", f"{ms / whole.wall_ms:.0%}" if whole.wall_ms else "-"
