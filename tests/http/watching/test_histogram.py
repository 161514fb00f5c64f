"""Histograms as Prometheus reads them."""

from prometheus_client import CollectorRegistry, generate_latest

from normtree.http.watching.histogram import Histogram


def test_buckets_are_cumulative_and_their_bounds_belong_to_them() -> None:
    registry, histogram = CollectorRegistry(), Histogram("took_seconds", "Time.", ("stage",), (0.1, 1.0))
    registry.register(histogram)
    histogram.observe((0.05, 0.1, 0.5), "up")
    histogram.observe(7.0, "up")
    histogram.observe(0.2, "down")
    lines = generate_latest(registry).decode().splitlines()
    assert lines[:2] == ["# HELP took_seconds Time.", "# TYPE took_seconds histogram"]
    assert [line for line in lines if '"up"' in line] == [
        'took_seconds_bucket{le="0.1",stage="up"} 2.0',
        'took_seconds_bucket{le="1.0",stage="up"} 3.0',
        'took_seconds_bucket{le="+Inf",stage="up"} 4.0',
        'took_seconds_count{stage="up"} 4.0',
        'took_seconds_sum{stage="up"} 7.65',
    ]
    assert 'took_seconds_count{stage="down"} 1.0' in lines


def test_one_without_labels_is_there_before_it_is_observed() -> None:
    registry = CollectorRegistry()
    registry.register(Histogram("took_seconds", "Time.", (), (0.1,)))
    lines = generate_latest(registry).decode().splitlines()
    assert lines[2:] == [
        'took_seconds_bucket{le="0.1"} 0.0',
        'took_seconds_bucket{le="+Inf"} 0.0',
        "took_seconds_count 0.0",
        "took_seconds_sum 0.0",
    ]
