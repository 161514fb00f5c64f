"""``normtree bench``: how fast this machine is, and how well plans foretell it, as tables."""

import math
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from rich.table import Table

import normtree_kernels as nk
from normtree.engine.memory.tensor import Tensor
from normtree.engine.plan import Plan
from normtree.engine.profile.machine_profile import MIB, SWEEPS, MachineProfile
from normtree.engine.profile.units import size_text
from normtree.engine.projector import Projector

_RADIUS_SHARE = 0.3
_FEW, _MANY, _ENOUGH_MS = 3, 15, 500.0
_CACHED_BYTES = 4 * MIB


@dataclass(frozen=True)
class Foretold:
    """One plan and what came of it.

    Args:
        plan: as it was made.
        measured_ms: median wall of several runs, after one that was not counted.
    """

    plan: Plan
    measured_ms: float

    @property
    def ratio(self) -> float:
        """Predicted over measured."""
        return self.plan.predicted_ms[self.plan.engine] / self.measured_ms


class Trial:
    """A tensor of noise in the arena, projected by plans in turn.

    Args:
        projector: with the engines.
        source: the tensor.
        target: where projections go.
        norm: such as ``"l1,linf"``.
        axes: such as ``"1,0"``; None for the default.
    """

    def __init__(self, projector: Projector, source: Tensor, target: Tensor, norm: str, axes: str | None) -> None:
        """Find a radius that leaves work to do."""
        self._projector = projector
        self._tensors = source, target
        self._ball = norm, axes, _RADIUS_SHARE * nk.norm(source.array(), norm, axes=axes)

    @classmethod
    @contextmanager
    def of(cls, projector: Projector, shape: tuple[int, ...], norm: str, axes: str | None = None) -> Iterator["Trial"]:
        """Lease memory for a float32 tensor of a shape, and fill it.

        Raises:
            BodyTooLarge, ArenaFull: the arena has no room for it twice.
        """
        nbytes = 4 * math.prod(shape)
        projector.arena.check_fits(nbytes, nbytes)
        with projector.arena.lease(nbytes) as inside, projector.arena.lease(nbytes) as outside:
            source, target = (Tensor(segment.name, shape, "float32") for segment in (inside, outside))
            line = source.array(writable=True).reshape(-1)
            noise = np.random.default_rng(0).standard_normal(min(line.size, MIB), np.float32)
            for start in range(0, line.size, noise.size):
                line[start : start + noise.size] = noise[: line.size - start]
            yield cls(projector, source, target, norm, axes)

    def plan(self, engine: str, workers: int | None = None) -> Plan:
        """Plan it."""
        norm, axes, radius = self._ball
        shape = self._tensors[0].shape
        return self._projector.plan(
            shape, "float32", norm=norm, axes=axes, radius=radius, engine=engine, workers=workers
        )

    def run(self, plans: Sequence[Plan]) -> list[Foretold]:
        """Run plans in turn, so that whatever disturbs the machine disturbs them all; several times each."""
        walls: list[list[float]] = [[] for _ in plans]
        while len(walls[0]) <= _FEW or (len(walls[0]) <= _MANY and sum(map(sum, walls)) < _ENOUGH_MS):
            for plan, taken in zip(plans, walls, strict=True):
                taken.append(self._projector.project(*self._tensors, plan).wall_ms)
        return [Foretold(plan, statistics.median(taken[1:])) for plan, taken in zip(plans, walls, strict=True)]


def profile_tables(profile: MachineProfile) -> list[Table]:
    """The profile for people: memory, leaves, engines."""
    return [_memory(profile), _leaves(profile), _engines(profile)]


def foretold_table(rows: Sequence[Foretold]) -> Table:
    """Predicted beside measured."""
    table = Table("tensor", "norm", "axes", "engine", title="what plans foretell, and what came of it")
    for name in ("workers", "predicted ms", "measured ms", "ratio"):
        table.add_column(name, justify="right")
    for row in rows:
        plan = row.plan
        table.add_row(
            "×".join(map(str, plan.shape)), plan.norm.text, plan.norm.axes_text, plan.engine, str(plan.workers),
            f"{plan.predicted_ms[plan.engine]:.2f}", f"{row.measured_ms:.2f}", f"{row.ratio:.2f}",
        )  # fmt: skip
    return table


def _memory(profile: MachineProfile) -> Table:
    table = Table("memory, GB/s of the tensor", title=f"{profile.machine.processor}, {profile.circumstances}")
    threads = list(next(iter(profile.bandwidth_gb_s.values())))
    for count in threads:
        table.add_column(f"{count} thread{'s' if count > 1 else ''}", justify="right")
    for kind, rates in profile.bandwidth_gb_s.items():
        table.add_row(kind, *(f"{rates[count]:.1f}" for count in threads))
    return table


def _leaves(profile: MachineProfile) -> Table:
    """Leaves of float32, as GB/s of the tensor: in the caches, in memory, shared."""
    table = Table("leaves, GB/s of the tensor, up / down")
    largest = max(costs["up"].serial.sizes[-1] for costs in profile.leaves.values())
    for size, count in ((_CACHED_BYTES, 1), (largest, 1), (largest, profile.workers)):
        table.add_column(f"{size_text(size)}, {count} thread{'' if count == 1 else 's'}", justify="right")
    for kind, costs in profile.leaves.items():
        both = [costs[sweep] for sweep in SWEEPS]
        cells = (
            [_CACHED_BYTES / cost.serial.at(_CACHED_BYTES) for cost in both],
            [largest / cost.serial.at(largest) for cost in both],
            [largest / cost.shared.at(largest) for cost in both],
        )
        table.add_row(kind, *(" / ".join(f"{rate:.1f}" for rate in rates) for rates in cells))
    return table


def _engines(profile: MachineProfile) -> Table:
    table = Table("what an engine adds")
    for name in ("ms a request", "ms a block more", "ms a MiB moved", "leaves slower by"):
        table.add_column(name, justify="right")
    for engine, cost in profile.engines.items():
        table.add_row(
            engine, f"{cost.request_ms:.2f}", f"{cost.block_ms:.2f}", f"{cost.moved_ms_per_mib:.2f}",
            f"{cost.slowdown - 1:.0%}",
        )  # fmt: skip
    return table
