"""The report: numbers as JSON, and one page that needs nothing else."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import normtree_kernels as nk
from normtree.engine.timing.schema import STAGES
from normtree.errors import InvalidRecipe
from normtree.jobs.plan.facts import BINS
from normtree.jobs.report import pictures
from normtree.jobs.report.removal import removals_of
from normtree.jobs.report.report import make_page, make_report, to_json
from normtree.jobs.run import JobOptions, run_job

RULES = (
    "tensors = '.*up\\.weight'\nsparsity = 0.5",
    "tensors = '.*half\\.weight'\nnorm = 'l1,l2'\naxes = '1,0'\nsparsity = 0.3",
    "tensors = '.*conv\\.weight'\nnorm = 'l1,l2'\naxes = '0,1.2.3'\nsparsity = 0.25\nscope = 'global'",
    "tensors = '.*bias'\nnorm = 'l1'\nsparsity = 0.25",
)


class Page(HTMLParser):
    """What of a page matters here: its elements, what they point at, and whether they are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.counts: dict[str, int] = {}
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag != "meta":  # HTML closes it itself
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def state(checkpoint: Path, tmp_path: Path, make_recipe: Any) -> Path:
    run_job(make_recipe(checkpoint, tmp_path / "out", *RULES), JobOptions(workers=2, engine="inline"))
    return tmp_path / "out.normtree"


def test_the_numbers_are_those_of_the_files(state: Path, checkpoint: Path, loaded: Any) -> None:
    report = json.loads((state / "report.json").read_text())
    ys, xs = loaded(checkpoint), loaded(state.with_name("out"))
    assert len(report["tensors"]) == 12
    for tensor in report["tensors"]:
        y, x = ys[tensor["name"]].astype(np.float64), xs[tensor["name"]].astype(np.float64)
        assert tensor["distance"] == pytest.approx(float(np.linalg.norm(y - x)), rel=1e-12)
        assert tensor["zero_groups"][-1] == int((x == 0).sum())
        assert tensor["certificate"]["feasible"]
        shares = report["rules"][tensor["rule"]]["scope"] == "global"
        assert tensor["certificate"].get("tight") is (None if shares else True)
        assert 0 <= tensor["certificate"].get("shortfall", 0.0) < 0.01
    assert [rule["zero_share"] for rule in report["rules"]] == [0.5, 0.3, 0.25, 0.25]
    assert report["bytes"] == sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file())
    assert report["wall_s"] > 0
    assert report["copy_floor"]["bytes_per_s"] > 0
    assert not list(state.with_name("out").glob(".*"))


def test_the_timing_has_the_fields_that_all_timings_have(state: Path) -> None:
    timing = json.loads((state / "report.json").read_text())["timing"]
    assert set(timing["stages_ms"]) <= set(STAGES)
    assert {
        "engine",
        "reason",
        "work_ms",
        "span_ms",
        "wall_ms",
        "serial_ms",
        "serial_is",
        "speedup",
        "efficiency",
    } <= set(timing)
    assert timing["work_ms"] == timing["serial_ms"] > 0
    assert timing["serial_is"] == "summed"
    assert timing["levels"][0]["tasks"] > 0
    assert timing["radius"] is None


@pytest.mark.parametrize(("retries", "shown"), [(0, "0"), (3, "3"), (None, "not counted")])
def test_retries_that_nobody_counted_are_not_none_at_all(
    checkpoint: Path, tmp_path: Path, make_recipe: Any, retries: int | None, shown: str
) -> None:
    done = run_job(make_recipe(checkpoint, tmp_path / "out", *RULES), JobOptions(workers=2, engine="inline"))
    outcome = replace(done, summary={**done.summary, "retries": retries})
    report = make_report(outcome, None)
    told = json.loads(to_json(report))
    assert (told["retries"], told["timing"]["retries"]) == (retries, retries)
    assert f"<div><dt>tasks run again</dt><dd>{shown}</dd></div>" in make_page(report, outcome)


def test_the_removal_plan_is_right(state: Path, loaded: Any) -> None:
    plan = json.loads((state / "report.json").read_text())["removal_plan"]
    xs = loaded(state.with_name("out"))
    kinds = {removal["tensor"].split(".")[2]: removal for removal in plan["tensors"]}
    assert {name: removal["kind"] for name, removal in kinds.items()} == {
        "up": "rows", "half": "columns", "conv": "filters",
    }  # fmt: skip
    for removal in plan["tensors"]:
        x = xs[removal["tensor"]]
        moved = np.moveaxis(x, removal["axis"], 0)
        left = moved[(moved != 0).reshape(len(moved), -1).any(axis=1)]
        assert list(np.moveaxis(left, 0, removal["axis"]).shape) == removal["shape_without"]
        assert removal["bytes_saved"] == x.nbytes - left.nbytes
    assert plan["bytes_saved"] == sum(removal["bytes_saved"] for removal in plan["tensors"])


def test_the_page_stands_alone_and_shows_four_kinds_of_picture(state: Path) -> None:
    text = (state / "report.html").read_text()
    page = Page()
    page.feed(text)
    assert page.open == []
    assert page.links == []
    assert "script" not in page.counts
    assert page.counts["svg"] == 3 + len(RULES)
    assert page.counts["rect"] > 100
    for heading in ("Sparsity by layer", "Group norms and the threshold", "Bytes a second", "Tasks", "Removal plan"):
        assert f"<h2>{heading}</h2>" in text
    assert "a mere copy, synced" in text
    assert "layers.2.conv.weight" in text


def test_names_of_strangers_are_escaped() -> None:
    assert pictures.row("<b>&") == "<tr><td>&lt;b&gt;&amp;</td></tr>"
    assert "<b>" not in pictures.histogram("<b>", [1] * BINS, 0, threshold=True)


def test_a_large_model_is_drawn_without_names(state: Path, checkpoint: Path, tmp_path: Path, make_recipe: Any) -> None:
    outcome = run_job(make_recipe(checkpoint, tmp_path / "out", *RULES), JobOptions(workers=2, engine="inline"))
    drawn = pictures.sparsity(outcome.facts * 30, 4)
    assert drawn.count("<rect") == 360
    assert "360 tensors, 4 rules" in drawn
    vectors = [facts for facts in outcome.facts if facts.name.endswith("bias")]
    assert removals_of(vectors) == []


def test_a_large_model_s_page_shows_the_most_and_its_numbers_are_a_line_a_tensor(
    checkpoint: Path, tmp_path: Path, make_recipe: Any
) -> None:
    outcome = run_job(make_recipe(checkpoint, tmp_path / "out", *RULES), JobOptions(workers=2, engine="inline"))
    many = replace(outcome, facts=outcome.facts * 100, stints=outcome.stints * 2000)
    report = make_report(many, None)
    lines = to_json(report).splitlines()
    assert json.loads("\n".join(lines)) == json.loads(json.dumps(report))
    assert sum(line.startswith('{"name":"layers.') for line in lines) == 1200
    text = make_page(report, many)
    assert text.count("<tr><td>layers.") == 2 * 200
    assert "and 1,000 more that are no larger, in report.json" in text
    assert "and 700 more that save less, in report.json" in text
    assert "1200 tensors, 4 rules, neighbours together in 432 bars" in text
    assert "tasks, the first: " in text
    assert text.count("<rect") < 432 + 8000 + 500
    largest = {
        facts.name for facts in outcome.facts if facts.groups[-1] == max(each.groups[-1] for each in outcome.facts)
    }
    assert set(re.findall("<tr><td>(layers[^<]*)</td><td>300×200", text)) == largest
    small = {line.split("<td>")[1] for line in text.split("<tr>") if "<td>300</td>" in line}
    assert not small


def test_groups_asked_and_left_are_told(tmp_path: Path, make_recipe: Any) -> None:
    (tmp_path / "in").mkdir()
    y = np.random.default_rng(0).standard_normal((6, 4))
    tensors = {"a": y, "b": np.ones((6, 4)), "c": np.ones((5, 4)), "v": np.ones(9)}
    save_file(tensors, tmp_path / "in" / "model.safetensors")
    rules = [
        "tensors = '[ab]'\nnorm = 'l1,l2'\ngroups = 2",
        "tensors = 'c'\nnorm = 'l1,l2'\ngroups = 3\nscope = 'global'",
        "tensors = 'v'\nnorm = 'l1'\nsparsity = 0.5",
    ]
    run_job(make_recipe(tmp_path / "in", tmp_path / "out", *rules), JobOptions(workers=1, engine="inline"))
    report = json.loads((tmp_path / "out.normtree" / "report.json").read_text())
    assert [(rule["groups_asked"], rule["groups_left"]) for rule in report["rules"]] == [(4, 2), (3, 0), (4, 0)]
    assert [(t["name"], t["groups_asked"], t["groups_left"]) for t in report["tensors"]] == [
        ("a", 2, 2), ("b", 2, 0), ("c", 3, 0), ("v", 4, 0),
    ]  # fmt: skip
    fate = "the largest are tied, and ties share one fate"
    assert report["notes"] == [
        f"b: no group is left of the 2 asked for: {fate}",
        f"rules[1]: no group is left of the 3 asked for: {fate}",
        f"v: no group is left of the 4 asked for: {fate}",
    ]


def test_heads_are_groups(tmp_path: Path, make_recipe: Any, loaded: Any) -> None:
    (tmp_path / "in").mkdir()
    rng = np.random.default_rng(0)
    ys = {"q": rng.standard_normal((24, 10)), "k": rng.standard_normal((48, 5)), "o": rng.standard_normal((10, 24))}
    save_file({**ys, "bias": np.ones(24)}, tmp_path / "in" / "model.safetensors")
    rules = [
        "tensors = '[qk]'\nnorm = 'l1,l2'\ngroups = 4\nsplit = '0:6'",
        "tensors = 'o'\nnorm = 'l1,l2'\ngroups = 4\nsplit = '1:6'\naxes = '1,0.2'",
    ]
    run_job(make_recipe(tmp_path / "in", tmp_path / "out", *rules), JobOptions(workers=1, engine="inline"))
    xs = loaded(tmp_path / "out")
    for name in "qk":
        seen = nk.project(ys[name].reshape(6, -1, ys[name].shape[1]), "l1,l2", groups=4)
        np.testing.assert_array_equal(xs[name], seen.reshape(ys[name].shape))
    seen = nk.project(ys["o"].reshape(10, 6, 4), "l1,l2", groups=4, axes="1,0.2")
    np.testing.assert_array_equal(xs["o"], seen.reshape(10, 24))
    report = json.loads((tmp_path / "out.normtree" / "report.json").read_text())
    told = {tensor["name"]: tensor for tensor in report["tensors"]}
    assert (told["q"]["shape"], told["q"]["split"], told["q"]["groups"]) == ([24, 10], "0:6", [6, 240])
    assert told["q"]["certificate"]["tight"]
    removals = {each["tensor"]: each for each in report["removal_plan"]["tensors"]}
    assert [
        (name, removals[name]["axis"], removals[name]["kind"], removals[name]["shape_without"]) for name in "qko"
    ] == [
        ("q", 0, "parts of 4 of axis 0", [16, 10]),
        ("k", 0, "parts of 8 of axis 0", [32, 5]),
        ("o", 1, "parts of 4 of axis 1", [10, 16]),
    ]
    zero = np.flatnonzero(~xs["o"].reshape(10, 6, 4).any(axis=(0, 2)))
    assert removals["o"]["indices"] in (f"{zero[0]}-{zero[1]}", f"{zero[0]},{zero[1]}")


@pytest.mark.parametrize(
    ("split", "message"),
    [("0:7", r"'w', claimed by rules\[0\]: split: 7 must divide axis 0"), ("0", "split: wanted axes and the sizes")],
)
def test_a_split_that_cannot_be_is_told(tmp_path: Path, make_recipe: Any, split: str, message: str) -> None:
    (tmp_path / "in").mkdir()
    save_file({"w": np.ones((24, 10))}, tmp_path / "in" / "model.safetensors")
    rule = f"tensors = 'w'\nradius = 1\nsplit = '{split}'"
    with pytest.raises(InvalidRecipe, match=message):
        run_job(make_recipe(tmp_path / "in", tmp_path / "out", rule), JobOptions(workers=1, engine="inline"))
