"""The page holds all it shows, and every picture is drawn from the figures alone."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tools.machine import describe
from tools.results import Point, write_json
from tools.words import bytes_text

pytest.importorskip("matplotlib", reason="the pictures need the bench extra")

TIMING = {"dtype": "float32", "work_ms": 7.0, "span_ms": 4.0, "overhead_ms": 1.0, "bytes_moved": 1024}
INTERVAL = {"value": 0.1, "lower": 0.05, "upper": 0.2}
LAW = {"serial": INTERVAL, "contention": INTERVAL, "coherency": INTERVAL, "worst": 0.0, "spare": 0}


def points() -> list[Point]:
    return [
        Point(scaling, nbytes * (workers if scaling == "weak" else 1), (5.0 / workers, 6.0, 7.0), (9.0, 9.0, 9.0), 2.0,
              4.0, {**TIMING, "engine": engine, "workers": workers, "norm": "l1,linf", "shape": [64, nbytes // 256]})
        for scaling in ("strong", "weak")
        for engine in ("inline", "ray")
        for workers in (1, 2)
        for nbytes in (2**16, 2**20)
    ]  # fmt: skip


class Links(HTMLParser):
    """Collects what a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.found += [value for name, value in attributes if name in ("src", "href") and value]


def test_page_is_self_contained(tmp_path: Path) -> None:
    from drawings import page

    fits = [{"engine": engine, "norm": "l1,linf", "nbytes": 2**20, "fit": LAW} for engine in ("inline", "ray")]
    plain = {"machine": describe("<none>"), "fits": fits, "points": [point.as_dict() for point in points()]}
    write_json(tmp_path / "curves.json", plain)
    text = page.make(tmp_path).read_text("utf-8")
    links = Links()
    links.feed(text)
    assert all(link.startswith(("data:", "#")) for link in links.found)
    assert not links.tags & {"script", "link", "iframe"}
    assert len(re.findall("<img ", text)) == 3
    assert "&lt;none&gt;" in text
    names = {"speedup-by-size", "speedup-by-workers", "weak-scaling"}
    assert {path.name for path in tmp_path.iterdir()} == {
        "curves.json", "report.html", *(f"{name}.{kind}" for name in names for kind in ("svg", "png"))
    }  # fmt: skip


def test_pictures_are_the_same_again(tmp_path: Path) -> None:
    from drawings import pictures

    drawn = []
    for _ in range(2):
        pictures.by_size(points(), tmp_path / "a")
        drawn.append((tmp_path / "a.svg").read_bytes())
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize(
    ("nbytes", "text"), [(2**16, "64 KiB"), (2**31, "2 GiB"), (1e14, "100 TB"), (48 * 2**20, "48 MiB"), (1e9, "1 GB")]
)
def test_sizes_read_well(nbytes: float, text: str) -> None:
    assert bytes_text(nbytes) == text
