"""Histograms that the event loop alone observes, and that are written out when they are scraped."""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector


class Histogram(Collector):
    """A family of histograms with the same buckets.

    The library's own take a lock for each number and look for the bucket one by one; a request observes ten times.

    Args:
        name: of the family.
        text: its help.
        labels: names of the labels.
        bounds: upper bounds of the buckets, ascending; one without a bound follows them.
    """

    def __init__(self, name: str, text: str, labels: tuple[str, ...], bounds: tuple[float, ...]) -> None:
        self._name, self._text, self._labels, self._bounds = name, text, labels, bounds
        self._texts = [*map(str, bounds), "+Inf"]
        self._counts: dict[tuple[str, ...], list[int]] = {}
        self._sums: dict[tuple[str, ...], float] = {}

    def observe(self, value: float, *labels: str) -> None:
        """Count a value; call it from the event loop only."""
        counts = self._counts.get(labels)
        if counts is None:
            counts = self._counts[labels] = [0] * len(self._texts)
            self._sums[labels] = 0.0
        counts[bisect_left(self._bounds, value)] += 1
        self._sums[labels] += value

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Yield the family as it is now."""
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for labels, counts in list(self._counts.items()):
            buckets = list(zip(self._texts, accumulate(counts), strict=True))
            family.add_metric(labels, buckets, self._sums[labels])
        yield family
