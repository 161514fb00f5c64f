"""Soak: a mixed load for as long as is wanted, while all that the service holds is watched.

It passes when no answer was wrong, no connection broke, and memory, segments, descriptors and processes in the last
fifth of the run are what they were in the second fifth.
"""

from collections.abc import Sequence
from dataclasses import asdict
from statistics import quantiles

from mixed import MixedLoad, Tally
from service import Service
from watch import Growth, Sample, Watch, growth

KEPT_SAMPLES = 240


def soak(service: Service, seconds: float, clients: int = 4) -> dict[str, object]:
    """Load a service and watch it.

    Args:
        service: that runs.
        seconds: how long.
        clients: how many send at once.
    """
    with Watch(service.process.pid) as watch, MixedLoad(service.url, clients) as load:
        watch.wait(seconds)
    return report(watch.samples, load.tally, seconds)


def report(samples: Sequence[Sample], tally: Tally, seconds: float) -> dict[str, object]:
    """Counts, latencies, growth, and enough samples for a picture, as plain values."""
    grown = growth(samples)
    return {
        "seconds": seconds,
        **tally.as_dict(),
        "right_per_s": round(tally.right.total() / seconds, 1),
        "latencies_ms": {name: _middle(values) for name, values in sorted(tally.latencies_ms.items())},
        "growth": [{**asdict(each), "flat": each.flat} for each in grown],
        "passed": passed(tally, grown),
        "samples": [asdict(each) for each in samples[:: max(1, len(samples) // KEPT_SAMPLES)]],
    }


def passed(tally: Tally, grown: Sequence[Growth]) -> bool:
    """Tell whether nothing was wrong, lost or growing."""
    return not tally.wrong and not tally.broken and all(each.flat for each in grown)


def _middle(values: Sequence[float]) -> dict[str, float]:
    """Count, median and 99th percentile."""
    cuts = quantiles(values, n=100, method="inclusive") if len(values) > 1 else [values[0]] * 99
    return {"count": len(values), "p50": round(cuts[49], 2), "p99": round(cuts[98], 2)}
