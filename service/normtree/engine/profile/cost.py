"""What a projection will cost: the model that turns shapes and a machine profile into predicted times."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from normtree.engine.profile.machine_profile import MIB, SWEEPS, Engine, Layout, LeafSweep, MachineProfile
from normtree_kernels.norms.mixed_norm import NORMS, MixedNorm
from normtree_kernels.sweeps.fibres import lay_out
from normtree_kernels.tree.blocks import Block

MOVED_BYTES = 24  # a fibre's norm on its way up, its norm and its radius on their way down
_FLOAT64_BYTES = 8
_ROUNDS = 4  # in which the l1 thresholds of fibres in parts are found, as a rule
_NS_PER_MS = 1e6


@dataclass(frozen=True)
class SweepWork:
    """What the sweeps of one level have to do.

    Args:
        norm: of the level.
        layout: how its fibres lie in memory.
        dtype: of what they are made of.
        nbytes: of it.
        run: length of the stretches of neighbouring elements that its kernels walk.
    """

    norm: str
    layout: Layout
    dtype: str
    nbytes: int
    run: int

    def ns(self, profile: MachineProfile, sweep: LeafSweep, workers: float) -> float:
        """Predict one sweep's wall, in nanoseconds.

        Other types than float32 take the time that they take in the caches, and no less than the memory takes.
        """
        taken = self._float32_ns(profile, self.norm, sweep, workers)
        if self.dtype == "float32":
            return taken
        ratio = profile.dtypes[f"{self.norm} {self.layout} {self.dtype}"][sweep]
        memory = min(self._float32_ns(profile, key.split()[0], sweep, workers) for key in self._alike(profile))
        return max(ratio * taken, memory)

    def sweeps_ms(self, profile: MachineProfile, workers: float) -> tuple[float, float]:
        """Predict the walls up and down, in milliseconds."""
        up, down = (self.ns(profile, sweep, workers) / _NS_PER_MS for sweep in SWEEPS)
        return up, down

    def _float32_ns(self, profile: MachineProfile, norm: str, sweep: LeafSweep, workers: float) -> float:
        return profile.leaves[f"{norm} {self.layout}"][sweep].ns(self.nbytes, self.run, workers)

    def _alike(self, profile: MachineProfile) -> list[str]:
        return [key for key in profile.leaves if key.endswith(self.layout)]


@dataclass(frozen=True)
class Prediction:
    """What a request will take on one engine.

    Args:
        workers: leaves at once.
        sweeps_ms: up and down of each level, outermost first.
        overhead_ms: what the engine adds.
    """

    workers: int
    sweeps_ms: tuple[tuple[float, float], ...]
    overhead_ms: float

    @property
    def levels_ms(self) -> tuple[float, ...]:
        """Both sweeps of each level, outermost first."""
        return tuple(map(sum, self.sweeps_ms))

    @property
    def wall_ms(self) -> float:
        """All together."""
        return sum(self.levels_ms) + self.overhead_ms

    @property
    def leaves_ms(self) -> float:
        """The innermost level, the only one whose work is shared."""
        return self.levels_ms[-1]


@dataclass(frozen=True)
class Workload:
    """A projection as the model sees it: the leaves' work, and that of the levels above them, outermost first."""

    leaf: SweepWork
    root: tuple[SweepWork, ...]

    @classmethod
    def of(cls, shape: tuple[int, ...], dtype: str, norm: MixedNorm) -> "Workload":
        """Find what there is to do for a tensor in C order."""
        return cls(_leaf_work(shape, dtype, norm), _root_work(shape, norm))

    def predict(self, profile: MachineProfile, engine: Engine, blocks: Sequence[Block], workers: int) -> Prediction:
        """Predict a request.

        Args:
            profile: of the machine.
            engine: one that the profile has.
            blocks: the leaves'.
            workers: leaves at once.
        """
        adds = profile.engines[engine]
        lengths = [block.stop - block.start for block in blocks]
        shared = min(workers, profile.workers, sum(lengths) / max(lengths))
        sweeps_ms = [work.sweeps_ms(profile, 1.0) for work in self.root]
        up_ms, down_ms = self.leaf.sweeps_ms(profile, shared)
        sweeps_ms.append((adds.slowdown * up_ms, adds.slowdown * down_ms))
        fibres = self.root[-1].nbytes // _FLOAT64_BYTES if self.root else 1
        moved_ms = adds.moved_ms_per_mib * MOVED_BYTES * fibres / MIB
        overhead_ms = adds.request_ms + adds.block_ms * (len(blocks) - 1) + moved_ms
        if blocks[0].part and NORMS[self.leaf.norm].searches:  # each round of the search is a phase like up and down
            overhead_ms *= 1 + _ROUNDS / 2
        return Prediction(workers, tuple(sweeps_ms), overhead_ms)


def _leaf_work(shape: tuple[int, ...], dtype: str, norm: MixedNorm) -> SweepWork:
    size, kind = prod(shape), np.dtype(dtype)
    if size == 0:
        return SweepWork(norm.inner.norm.name, "rows", dtype, 0, 1)
    strides = [kind.itemsize * prod(shape[axis + 1 :]) for axis in range(len(shape))]
    outline = np.lib.stride_tricks.as_strided(np.empty((), kind), shape, strides)  # strides only: nothing is read
    fibres = lay_out(len(norm.kept_axes), outline.transpose(norm.order))
    run = fibres.width if fibres.kind == "columns" else prod(shape[axis] for axis in norm.inner.axes)
    return SweepWork(norm.inner.norm.name, fibres.kind, dtype, size * kind.itemsize, run)


def _root_work(shape: tuple[int, ...], norm: MixedNorm) -> tuple[SweepWork, ...]:
    """Rows of float64: the aggregates of each level."""
    works, fibres = [], 1
    for level in norm.levels[:-1]:
        length = prod(shape[axis] for axis in level.axes)
        works.append(SweepWork(level.norm.name, "rows", "float64", _FLOAT64_BYTES * fibres * length, length))
        fibres *= length
    return tuple(works)
