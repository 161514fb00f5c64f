"""Soak: a mixed load for as long as is wanted, jobs beside it and within, while all that the service holds is watched.

It passes when no answer was wrong, no connection broke, no job was lost, and memory, segments, descriptors and
processes in the last fifth of the run are what they were in the second fifth.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any

from tools.service import Service
from tools.watch import PERIOD_S, SAMPLES, Growth, Sample, Watch, growth

from traffic.job_load import JobLoad, JobTally
from traffic.mixed import MixedLoad, Tally
from traffic.served_jobs import ServedJobs, ServedTally

KEPT_SAMPLES, FEWEST_SAMPLES = 240, 40


@dataclass(frozen=True)
class Pace:
    """How hard to load.

    Args:
        clients: how many send at once.
        pause_s: each client's rest between two requests.
        jobs_pause_s: rest between two jobs, of those from the command line and of those over HTTP.
    """

    clients: int = 4
    pause_s: float = 0.0
    jobs_pause_s: float = 0.0


GENTLE = Pace(clients=4, pause_s=0.3, jobs_pause_s=15.0)


def soak(service: Service, folder: Path, seconds: float, pace: Pace = Pace()) -> dict[str, Any]:
    """Load a service and watch it.

    Args:
        service: that runs; ``folder`` is one that its jobs may use.
        folder: for the jobs.
        seconds: how long.
        pace: how hard.
    """
    period_s = min(PERIOD_S, seconds / FEWEST_SAMPLES) if seconds < SAMPLES * PERIOD_S else seconds / SAMPLES
    with (
        JobLoad(folder / "command", pause_s=pace.jobs_pause_s) as jobs,
        Watch(service.process.pid, period_s) as watch,
        ServedJobs(service.url, folder, pace.jobs_pause_s) as served,
        MixedLoad(service.url, pace.clients, pace.pause_s) as load,
    ):
        watch.wait(seconds)
    found = report(watch.samples, load.tally, jobs.tally, served.tally, seconds)
    return {"pace": asdict(pace), **found}


def report(
    samples: Sequence[Sample], tally: Tally, jobs: JobTally, served: ServedTally, seconds: float
) -> dict[str, Any]:
    """Counts, latencies, growth, and enough samples for a picture, as plain values."""
    grown = growth(samples)
    return {
        "seconds": seconds,
        **tally.as_dict(),
        "right_per_s": round(tally.right.total() / seconds, 1),
        "latencies_ms": {name: _middle(values) for name, values in sorted(tally.latencies_ms.items())},
        "growth": [{**asdict(each), "flat": each.flat} for each in grown],
        "jobs": jobs.as_dict(),
        "served_jobs": served.as_dict(),
        "passed": passed(tally, jobs, served, grown),
        "samples": [asdict(each) for each in samples[:: max(1, len(samples) // KEPT_SAMPLES)]],
    }


def passed(tally: Tally, jobs: JobTally, served: ServedTally, grown: Sequence[Growth]) -> bool:
    """Tell whether nothing was wrong, lost or growing."""
    return not (tally.wrong or tally.broken or jobs.lost or served.lost) and all(each.flat for each in grown)


def _middle(values: Sequence[float]) -> dict[str, float]:
    """Count, median and 99th percentile."""
    cuts = quantiles(values, n=100, method="inclusive") if len(values) > 1 else [values[0]] * 99
    return {"count": len(values), "p50": round(cuts[49], 2), "p99": round(cuts[98], 2)}
