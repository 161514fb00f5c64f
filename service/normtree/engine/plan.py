"""Plans: how a projection will run, decided from shapes and the machine profile before any data is touched."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np

from normtree.engine.profile import MachineProfile
from normtree_kernels.blocks import Block, split
from normtree_kernels.euclidean import merged, needs_own_algorithm
from normtree_kernels.goal import Goal
from normtree_kernels.norms import MixedNorm

Engine = Literal["inline", "ray"]
ENGINES = ("auto", "inline", "ray")

# Ray is taken although it is a little slower: work in the workers leaves the service's process to its sockets.
_RAY_TOLERANCE = 1.1


@dataclass(frozen=True)
class Plan:
    """How one tensor will be projected.

    Args:
        shape: the tensor's shape.
        dtype: its element type, such as ``"float32"``.
        norm: mixed norm bound to its axes.
        goal: what the projection is to reach.
        exact: whether the fibres' radii are those of the Euclidean projection, by its own algorithm.
        engine: ``inline`` (threads of this process) or ``ray``.
        workers: leaves at once.
        reason: why this engine.
        blocks: the leaves' blocks.
        predicted_ms: predicted wall of each engine that could run it.
        serial_ms: predicted wall on one thread, the modelled reference of a speed-up.
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
    predicted_ms: Mapping[Engine, float]
    serial_ms: float

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def kept_shape(self) -> tuple[int, ...]:
        """Lengths of the axes that the innermost level keeps, in the norm's order."""
        return tuple(self.shape[axis] for axis in self.norm.kept_axes)

    def __str__(self) -> str:
        """A table for people: what, how and why, then a line a level."""
        predicted = ", ".join(f"{engine} {ms:.1f} ms" for engine, ms in self.predicted_ms.items())
        lines = [
            f"tensor     {' × '.join(map(str, self.shape)) or 'scalar'} {self.dtype}, {self.nbytes:,} bytes",
            f"ball       {self.norm}, {self.goal}{', exact' if self.exact else ''}",
            f"engine     {self.engine}, {self.workers} workers: {self.reason}",
            f"predicted  {predicted}; one thread {self.serial_ms:.1f} ms",
            "",
            f"{'level':<6}{'norm':<6}{'axes':<10}{'fibres':>14}{'length':>12}{'blocks':>8}",
        ]
        fibres = 1
        for index, level in enumerate(self.norm.levels):
            length = prod(self.shape[axis] for axis in level.axes)
            blocks = len(self.blocks) if level is self.norm.inner else 1
            axes = ".".join(map(str, level.axes)) or "-"
            lines.append(f"{index:<6}{level.norm:<6}{axes:<10}{fibres:>14,}{length:>12,}{blocks:>8}")
            fibres *= length
        return "\n".join(lines)


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
        workers: leaves at once, 1 to ``max_workers``; default: all.

    Raises:
        ValueError: an engine that is not known or not there, more workers than there are, a goal that cannot be
            reached, an exact projection that is not known.
    """
    goal.check_fits(norm, shape)
    own = exact and needs_own_algorithm(norm, goal)
    norm = merged(norm) if own else norm
    count = _check_workers(workers, max_workers)
    nbytes = prod(shape) * np.dtype(dtype).itemsize
    blocks = split(shape, norm, count)
    serial_ms = profile.serial_ms(norm.inner.norm, nbytes)
    parallel_ms = serial_ms / len(blocks)
    predicted: dict[Engine, float] = {"inline": parallel_ms + profile.thread_overhead_ms}
    if profile.ray_overhead_ms is not None:
        predicted["ray"] = parallel_ms + profile.ray_overhead_ms
    chosen, reason = _choose(engine, predicted)
    return Plan(shape, dtype, norm, goal, own, chosen, count, reason, blocks, predicted, serial_ms)


def _check_workers(workers: int | None, max_workers: int) -> int:
    if workers is None:
        return max_workers
    if not 1 <= workers <= max_workers:
        raise ValueError(f"workers: wanted 1 to {max_workers}, got {workers}")
    return workers


def _choose(engine: str, predicted: Mapping[Engine, float]) -> tuple[Engine, str]:
    if engine not in ENGINES:
        raise ValueError(f"engine: wanted one of {', '.join(ENGINES)}, got {engine!r}")
    if engine == "inline":
        return "inline", "asked"
    if "ray" not in predicted:
        if engine == "ray":
            raise ValueError("engine: 'ray' was asked for, but this service runs without Ray")
        return "inline", "Ray is off"
    if engine == "ray":
        return "ray", "asked"
    if predicted["ray"] <= _RAY_TOLERANCE * predicted["inline"]:
        return "ray", "Ray is predicted within 10 % of inline, and leaves this process to its sockets"
    return "inline", "below break-even: Ray's overhead would outweigh what it frees"
