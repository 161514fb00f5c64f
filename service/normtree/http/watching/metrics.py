"""Metrics for Prometheus: seconds and bytes, noted as requests end, the rest read when they are scraped."""

import platform
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Info, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from normtree import __version__
from normtree.engine.projector import Projector
from normtree.engine.timing.schema import STAGES, Timing
from normtree.errors import DeadlineExceeded, Drained
from normtree.extras import version_of
from normtree.http.admission.admission import Admission
from normtree.http.watching.exchange import Exchange
from normtree.http.watching.histogram import Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_MS_PER_S = 1e3
_MOST_NOTED = 256
# Errors by which the service turns a request away that it could have served another time or for another client.
_TURNED_AWAY = frozenset({401, 403, 413, 429, 503})
_CANCELLED = {DeadlineExceeded.code: "deadline", Drained.code: "drain"}


class _Kind(NamedTuple):
    """What projections have in common that are counted together.

    Args:
        route: of the request.
        status: of the answer.
        engine: that projected.
        reason: why that one, as far as its first colon: there are few such texts.
        stages: names of what took its time.
    """

    route: str
    status: int
    engine: str
    reason: str
    stages: tuple[str, ...]


class Metrics:
    """The service's metrics, in a registry of their own.

    Projections are noted as rows of numbers, and counted by hundreds or when someone looks: a small one takes less
    time than to find the buckets of a dozen histograms.
    """

    def __init__(self, projector: Projector, admission: Admission, tensor_routes: Sequence[str]) -> None:
        """Begin at zero, each stage of the routes that take tensors too; gauges are read from the parts given."""
        registry = self._registry = CollectorRegistry()
        self._noted: dict[_Kind, list[tuple[float, ...]]] = {}
        self._leaf_count, self._leaf_s = 0, 0.0
        self._requests = Counter("normtree_requests", "Requests answered.", ["route", "code"], registry=registry)
        self._seconds = Histogram(
            "normtree_request_seconds", "Time of a request, by stage.", ("route", "stage"), _SECONDS
        )
        for labels in product(tensor_routes, STAGES):
            self._seconds.observe([], *labels)
        self._rejected = Counter("normtree_rejected", "Requests turned away.", ["reason"], registry=registry)
        self._cancelled = Counter(
            "normtree_cancelled", "Requests given up after they began.", ["cause"], registry=registry
        )
        self._retries = Counter("normtree_task_retries", "Leaf tasks run again.", ["cause"], registry=registry)
        self._plans = Counter(
            "normtree_plans", "Projections, by engine and why.", ["engine", "reason"], registry=registry
        )
        self._efficiency = Histogram("normtree_parallel_efficiency", "Speed-up over workers.", (), _SHARES)
        self._late = Histogram(
            "normtree_loop_late_seconds", "How late the event loop was, twenty times a second.", (), _SECONDS
        )
        registry.register(self._late)
        registry.register(self._seconds)
        registry.register(self._efficiency)
        Info("normtree_build", "What runs here.", registry=registry).info(_build())
        self._gauge(
            "normtree_inflight_requests", "Tensors in flight, waiting ones included.", lambda: admission.in_flight
        )
        self._gauge("normtree_inflight_bytes", "Shared memory admitted to them.", lambda: admission.inside_bytes)
        self._gauge("normtree_queue_depth", "Tensors that wait for shared memory.", lambda: admission.waiting)
        self._gauge(
            "normtree_workers_ready", "Leaf tasks that could run at once.",
            lambda: projector.workers_ready,
        )  # fmt: skip
        registry.register(_Arena(projector))
        registry.register(_Leaves(self))
        registry.register(_Ray(projector))
        ProcessCollector(registry=registry)

    @property
    def registry(self) -> CollectorRegistry:
        """What is scraped, with all counted that has been noted; take it anew for each scrape, on the event loop."""
        for kind in list(self._noted):
            self._count_noted(kind)
        return self._registry

    @property
    def leaves(self) -> tuple[int, float]:
        """How many leaf tasks ran, and the seconds they took together."""
        return self._leaf_count, self._leaf_s

    def count(self, done: Exchange) -> None:
        """Count a request that has ended."""
        if done.timing:
            self._note(done, done.timing)
        else:
            self._requests.labels(done.route, done.status).inc()
            self._seconds.observe(done.seconds, done.route, "total")
        cause = "disconnect" if done.gone else _CANCELLED.get(done.problem or "")
        if cause:
            self._cancelled.labels(cause).inc()
        elif done.problem and done.status in _TURNED_AWAY:
            self._rejected.labels(done.problem).inc()

    def note_late(self, seconds: float) -> None:
        """Count how late the event loop was once."""
        self._late.observe(seconds)

    def _note(self, done: Exchange, timing: Timing) -> None:
        """Note a projection."""
        kind = _Kind(done.route, done.status, timing.engine, timing.reason.partition(":")[0], tuple(timing.stages_ms))
        tasks = sum([level.tasks for level in timing.levels])
        retries = timing.retries or 0  # those that nobody counted add nothing
        row = (done.seconds, timing.efficiency, tasks, timing.work_ms, retries, *timing.stages_ms.values())
        rows = self._noted.setdefault(kind, [])
        rows.append(row)
        if len(rows) >= _MOST_NOTED:
            self._count_noted(kind)

    def _count_noted(self, kind: _Kind) -> None:
        """Count what has been noted of a kind."""
        rows = self._noted.pop(kind)
        seconds, efficiency, tasks, work_ms, retries, *stages_ms = np.array(rows).T
        self._requests.labels(kind.route, kind.status).inc(len(rows))
        self._plans.labels(kind.engine, kind.reason).inc(len(rows))
        self._seconds.observe(seconds, kind.route, "total")
        for stage, took_ms in zip(kind.stages, stages_ms, strict=True):
            if stage != "total":
                self._seconds.observe(took_ms / _MS_PER_S, kind.route, stage)
        self._efficiency.observe(efficiency)
        self._leaf_count += int(tasks.sum())
        self._leaf_s += float(work_ms.sum()) / _MS_PER_S
        if retries.any():
            self._retries.labels("worker-lost").inc(retries.sum())

    def _gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        Gauge(name, text, registry=self._registry).set_function(read)


class _Arena(Collector):
    """Bytes of shared memory by state, read at once so that they add up."""

    def __init__(self, projector: Projector) -> None:
        self._arena = projector.arena

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily("normtree_arena_bytes", "Shared memory of the arena.", labels=["state"])
        leased, idle = self._arena.leased_bytes, self._arena.idle_bytes
        for state, nbytes in (("leased", leased), ("idle", idle), ("free", self._arena.capacity_bytes - leased - idle)):
            family.add_metric([state], nbytes)
        yield family


class _Leaves(Collector):
    """Count and seconds of leaf tasks; a request reports them summed."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[SummaryMetricFamily]:
        count, seconds = self._metrics.leaves
        yield SummaryMetricFamily("normtree_leaf_seconds", "Time of leaf tasks.", count_value=count, sum_value=seconds)


class _Ray(Collector):
    """Whether Ray is there, where it is not off, and how often it was started anew."""

    def __init__(self, projector: Projector) -> None:
        self._ray = projector.ray

    def collect(self) -> Iterator[Metric]:
        if self._ray:
            yield GaugeMetricFamily("normtree_ray_up", "Whether Ray is there.", value=not self._ray.is_away)
            yield CounterMetricFamily(
                "normtree_ray_restarts", "Times Ray was started anew after it was lost.", value=self._ray.restarts
            )


def _build() -> dict[str, str]:
    packages = {name: version_of(name) or "none" for name in ("numpy", "numba", "ray")}
    return {"version": __version__, "python": platform.python_version(), **packages}
