"""Histograms that the event loop alone observes, and that are written out when they are scraped."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray
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
        self._name, self._text, self._labels, self._bounds = name, text, labels, np.array(bounds)
        self._texts = [*map(str, bounds), "+Inf"]
        self._counts: dict[tuple[str, ...], NDArray[np.int64]] = {}
        self._sums: dict[tuple[str, ...], float] = {}
        if not labels:  # the only one there will be: it is there from the start, as the library's own are
            self.observe([])

    def observe(self, values: ArrayLike, *labels: str) -> None:
        """Count values; call it from the event loop only.

        Args:
            values: one or, which is cheaper by far, many at once.
            labels: of all of them.
        """
        values = np.atleast_1d(values)
        buckets = np.bincount(np.searchsorted(self._bounds, values), minlength=len(self._texts))
        self._counts[labels] = self._counts.get(labels, 0) + buckets
        self._sums[labels] = self._sums.get(labels, 0.0) + float(values.sum())

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Yield the family as it is now."""
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for labels, counts in self._counts.items():
            buckets = list(zip(self._texts, counts.cumsum().tolist(), strict=True))
            family.add_metric(labels, buckets, self._sums[labels])
        yield family
