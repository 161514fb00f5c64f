"""Results survive their files, and say what was measured."""

import csv
import io
import json
from pathlib import Path

import pytest
from tools.machine import describe
from tools.results import CSV_FIELDS, Point, csv_text, quartiles, read_json, write_json

TIMING = {
    "engine": "ray", "workers": 2, "norm": "l1,linf", "dtype": "float32", "shape": [64, 128],
    "work_ms": 7.0, "span_ms": 4.0, "overhead_ms": 1.0, "bytes_moved": 1024,
}  # fmt: skip


def point(scaling: str = "strong") -> Point:
    return Point(scaling, 32768, (5.0, 4.0, 6.0), (10.0, 10.0, 9.0), 2.0, 4.5, TIMING)


def test_speedup_is_the_median_of_the_rounds_own() -> None:
    assert point().speedups == pytest.approx((1.75, 2.0, 2.25))
    assert point("weak").speedups[1] == pytest.approx(4.0)
    assert point().row()["efficiency"] == 1.0


def test_point_comes_back_from_json(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"machine": describe("none"), "points": [point().as_dict()], "empty": []})
    plain = read_json(tmp_path / "a.json")
    assert plain is not None
    assert [Point.of(each) for each in plain["points"]] == [point()]
    assert plain["empty"] == []
    assert {"processor", "cores", "load_average", "warm_up", "ray"} <= plain["machine"].keys()
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_json_has_a_line_a_point(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"points": [point().as_dict()] * 3})
    lines = [line.strip().rstrip(",") for line in (tmp_path / "a.json").read_text().splitlines()]
    assert sum(json.loads(line) == json.loads(json.dumps(point().as_dict())) for line in lines if len(line) > 20) == 3


def test_csv_has_every_field() -> None:
    (row,) = csv.DictReader(io.StringIO(csv_text([point().row()], CSV_FIELDS)))
    assert tuple(row) == CSV_FIELDS
    assert (row["wall_ms"], row["shape"], row["speedup"]) == ("5.0", "64x128", "2.0")


def test_quartiles_of_one() -> None:
    assert quartiles([3.0]) == (3.0, 3.0, 3.0)


def test_missing_results_are_none(tmp_path: Path) -> None:
    assert read_json(tmp_path / "no.json") is None
