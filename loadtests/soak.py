"""Soak: a mixed load for as long as is wanted, jobs beside it, while all that the service holds is watched.

It passes when no answer was wrong, no connection broke, no job was lost, and memory, segments, descriptors and
processes in the last fifth of the run are what they were in the second fifth.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import quantiles

from job_load import JobLoad, JobTally
from mixed import MixedLoad, Tally
from service import Service
from watch import PERIOD_S, Growth, Sample, Watch, growth

KEPT_SAMPLES, FEWEST_SAMPLES = 240, 40


def soak(service: Service, folder: Path, seconds: float, clients: int = 4) -> dict[str, object]:
    """Load a service and watch it.

    Args:
        service: that runs.
        folder: for the jobs.
        seconds: how long.
        clients: how many send at once.
    """
    period_s = min(PERIOD_S, seconds / FEWEST_SAMPLES)
    with (
        JobLoad(folder) as jobs,
        Watch(service.process.pid, period_s) as watch,
        MixedLoad(service.url, clients) as load,
    ):
        watch.wait(seconds)
    return report(watch.samples, load.tally, jobs.tally, seconds)


def report(samples: Sequence[Sample], tally: Tally, jobs: JobTally, seconds: float) -> dict[str, object]:
    """Counts, latencies, growth, and enough samples for a picture, as plain values."""
    grown = growth(samples)
    return {
        "seconds": seconds,
        **tally.as_dict(),
        "right_per_s": round(tally.right.total() / seconds, 1),
        "latencies_ms": {name: _middle(values) for name, values in sorted(tally.latencies_ms.items())},
        "growth": [{**asdict(each), "flat": each.flat} for each in grown],
        "jobs": jobs.as_dict(),
        "passed": passed(tally, jobs, grown),
        "samples": [asdict(each) for each in samples[:: max(1, len(samples) // KEPT_SAMPLES)]],
    }


def passed(tally: Tally, jobs: JobTally, grown: Sequence[Growth]) -> bool:
    """Tell whether nothing was wrong, lost or growing."""
    return not (tally.wrong or tally.broken or jobs.lost) and all(each.flat for each in grown)


def _middle(values: Sequence[float]) -> dict[str, float]:
    """Count, median and 99th percentile."""
    cuts = quantiles(values, n=100, method="inclusive") if len(values) > 1 else [values[0]] * 99
    return {"count": len(values), "p50": round(cuts[49], 2), "p99": round(cuts[98], 2)}
