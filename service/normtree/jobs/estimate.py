"""How long a job will take: measured rates of this machine's kernels and of the output's disk, and what they add to."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

from normtree.engine.kernels import prepare
from normtree.jobs.open_places import open_target
from normtree.jobs.plan.job_plan import MIB, JobPlan
from normtree.jobs.run import JobOptions
from normtree.jobs.tasks.job_kernels import kernels_of
from normtree_kernels.sweeps import sweep
from normtree_kernels.vector_norm import Norm

_SAMPLE_BYTES = 8 * MIB
_PROBE_BYTES = 64 * MIB
_INLINE_START_S, _RAY_START_S = 1.0, 6.0  # loading kernels; starting Ray and its workers: as seen, not measured here


@dataclass(frozen=True)
class Pace:
    """Rates, in bytes a second.

    Args:
        sweeps: of one worker, both sweeps of a tensor, by leaf norm and element type.
        disk: written to the output's disk and synced; None for a store behind a URL.
    """

    sweeps: dict[tuple[Norm, str], float]
    disk: float | None


def measure(plan: JobPlan) -> Pace:
    """Sweep some noise, and write and sync some to the output's disk."""
    leaves = {(work.layout.norm.inner.norm, work.layout.dtype) for work in plan.works}
    prepare(kernels_of(plan))
    return Pace({leaf: _sweep_rate(*leaf) for leaf in leaves}, _disk_rate(plan.recipe.output))


def predict(plan: JobPlan, options: JobOptions) -> str:
    """Say how long a job will take and how much memory, as a person reads it."""
    pace = measure(plan)
    work_s = sum(
        (work.nbytes + plan.round_bytes_of(work) / 2) / pace.sweeps[work.layout.norm.inner.norm, work.layout.dtype]
        for work in plan.works
    )
    disk_s = plan.checkpoint.nbytes / pace.disk if pace.disk else 0.0
    engine = options.engine_for(plan.checkpoint)
    start_s = _INLINE_START_S if engine == "inline" else _RAY_START_S
    disk = f"{disk_s:.1f} s of writing at {pace.disk / 1e9:.2f} GB/s" if pace.disk else "what the store takes"
    rounds = f", about {plan.round_bytes:,} more in rounds" if plan.round_bytes else ""
    memory = f"{plan.buffer_bytes / MIB:,.0f} MiB of {plan.memory_bytes / MIB:,.0f} MiB allowed"
    return (
        f"{engine} with {plan.workers} workers: {work_s:.1f} s of sweeps shared among them, and {disk}; about "
        f"{max(work_s / plan.workers, disk_s):.1f} s, after {start_s:.0f} s to start\n"
        f"memory: buffers and aggregates of at most {memory}; about {plan.task_bytes / MIB:.0f} MiB a task, "
        f"{plan.swept_up_bytes:,} bytes read twice{rounds}"
    )


def _sweep_rate(norm: Norm, dtype: str) -> float:
    element = np.dtype(dtype)
    y = np.random.default_rng(0).standard_normal((1024, _SAMPLE_BYTES // 1024 // 8)).astype(element)
    x = np.empty_like(y)
    took_s = []
    for _ in range(3):
        start = perf_counter()
        v = sweep.up(norm, y, 1)
        sweep.down(norm, y, 1, v, v / 2, x)
        took_s.append(perf_counter() - start)
    return y.nbytes / min(took_s)


def _disk_rate(output: str) -> float | None:
    target = open_target(output, "any.safetensors")
    if target.streams:
        return None
    folder = Path(target.url)
    while not folder.is_dir():
        folder = folder.parent
    noise = np.random.default_rng(0).bytes(_PROBE_BYTES)
    with tempfile.TemporaryFile(dir=folder) as probe:
        start = perf_counter()
        probe.write(noise)
        probe.flush()
        os.fsync(probe.fileno())
        return _PROBE_BYTES / (perf_counter() - start)
