"""Prometheus' rules and Grafana's dashboard: valid, of metrics that exist, and each alert in the runbook."""

import io
import json
import re
import shutil
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import promql_parser
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

SCRAPED = {"job", "instance"}  # labels that the scraping adds
SUFFIXES = ("_bucket", "_sum", "_count")
# Of Ray's own, which tests/deploy/test_nodes.py finds on a real node.
RAYS = {"ray_node_mem_used", "ray_node_mem_total", "ray_node_cpu_utilization", "ray_node_mem_shared_bytes"}
OTHERS = {"up", "ALERTS"}
COLUMNS = 24


@pytest.fixture(scope="module")
def dashboard(deploy: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((deploy / "grafana" / "dashboards" / "normtree.json").read_text())
    return found


@pytest.fixture(scope="module")
def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


@pytest.fixture(scope="module")
def rules(read_yaml: Any) -> list[dict[str, Any]]:
    return [rule for group in read_yaml("prometheus", "rules.yaml")["groups"] for rule in group["rules"]]


@pytest.fixture(scope="module")
def alerts(rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [rule for rule in rules if "alert" in rule]


def selectors(expression: Any) -> list[promql_parser.VectorSelector]:
    """Every selector of a parsed expression."""
    if isinstance(expression, promql_parser.VectorSelector):
        return [expression]
    parts = ("expr", "lhs", "rhs", "vector_selector", "args", "param")
    found = []
    for part in (getattr(expression, name, None) for name in parts):
        for child in part if isinstance(part, list) else [part]:
            if child is not None:
                found += selectors(child)
    return found


def parse(text: str) -> list[promql_parser.VectorSelector]:
    """Parse PromQL, Grafana's variables replaced; ValueError where it is none."""
    return selectors(promql_parser.parse(text.replace("$__rate_interval", "5m").replace("$instance", ".*")))


@pytest.fixture(scope="module")
def used(rules: list[dict[str, Any]], panels: list[dict[str, Any]]) -> list[promql_parser.VectorSelector]:
    texts = [rule["expr"] for rule in rules] + [target["expr"] for panel in panels for target in panel["targets"]]
    return [selector for text in texts for selector in parse(text)]


def test_selectors_are_found_wherever_they_are() -> None:
    text = "sum by (a) (rate(x_total{b='c'}[5m])) / (histogram_quantile(0.9, y_bucket) > 0) or absent(z)"
    assert {selector.name for selector in parse(text)} == {"x_total", "y_bucket", "z"}


def family(name: str) -> str:
    return next((name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)), name)


@pytest.fixture(scope="module")
def exposed(client: httpx.Client) -> dict[str, Metric]:
    """What a real service shows after it has answered and refused."""
    body = io.BytesIO()
    np.save(body, np.ones((8, 8), np.float32))
    for query in ("radius=2&engine=ray", "radius=2&engine=inline", "radius=-1"):
        client.post(f"/v1/project?{query}", content=body.getvalue(), headers={"Content-Type": "application/x-npy"})
    found = {family.name: family for family in text_string_to_metric_families(client.get("/metrics").text)}
    assert {sample.name for sample in found["normtree_requests"].samples} >= {"normtree_requests_total"}
    return found


def test_every_metric_exists(
    used: list[promql_parser.VectorSelector], rules: list[dict[str, Any]], exposed: dict[str, Metric]
) -> None:
    recorded = {rule["record"] for rule in rules if "record" in rule}
    families = {family.removesuffix("_total") for family in exposed}
    names = {selector.name for selector in used if selector.name} - recorded - OTHERS - RAYS
    assert names
    assert {family(name).removesuffix("_total") for name in names} <= families


def test_every_label_exists(used: list[promql_parser.VectorSelector], exposed: dict[str, Metric]) -> None:
    samples = [sample for metric in exposed.values() for sample in metric.samples]
    labels: dict[str, set[str]] = {}
    for sample in samples:
        labels.setdefault(sample.name, set()).update(sample.labels)
    checked = 0
    for selector in used:
        if selector.name in labels:
            asked = {matcher.name for matcher in selector.matchers.matchers} - SCRAPED
            assert asked <= labels[selector.name], selector.name
            checked += len(asked)
    assert checked


def test_histograms_are_asked_for_where_there_is_one(
    used: list[promql_parser.VectorSelector], exposed: dict[str, Metric]
) -> None:
    names = {selector.name for selector in used if selector.name}
    buckets = {name.removesuffix("_bucket") for name in names if name.endswith("_bucket")}
    assert buckets
    assert {exposed[name].type for name in buckets} == {"histogram"}


@pytest.mark.parametrize("tool", [["check", "rules", "--lint=all", "--lint-fatal"], ["test", "rules"]])
def test_promtool_takes_the_rules(tool: list[str], deploy: Path) -> None:
    if not shutil.which("promtool"):
        pytest.skip("promtool is not installed (Debian has it in the package prometheus)")
    file = "rules.yaml" if tool[0] == "check" else "rules.test.yaml"
    done = subprocess.run(
        ["promtool", *tool, str(deploy / "prometheus" / file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_takes_the_configuration(deploy: Path) -> None:
    if not shutil.which("promtool"):
        pytest.skip("promtool is not installed (Debian has it in the package prometheus)")
    done = subprocess.run(
        ["promtool", "check", "config", str(deploy / "prometheus" / "prometheus.yaml")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_parse(rules: list[dict[str, Any]]) -> None:
    assert rules
    assert all(parse(rule["expr"]) for rule in rules)


def test_every_alert_is_tested_both_ways(alerts: list[dict[str, Any]], read_yaml: Any) -> None:
    well, ill = read_yaml("prometheus", "rules.test.yaml")["tests"]
    names = {alert["alert"] for alert in alerts}
    assert {test["alertname"] for test in well["alert_rule_test"]} == names
    (firing,) = ill["promql_expr_test"]
    assert {re.search('"(.*)"', sample["labels"])[1] for sample in firing["exp_samples"]} == names  # type: ignore[index]


def test_every_alert_says_what_and_where_to_read_on(alerts: list[dict[str, Any]], deploy: Path) -> None:
    headings = re.findall(r"^### (\w+)$", (deploy / "RUNBOOK.md").read_text(), re.MULTILINE)
    names = [alert["alert"] for alert in alerts]
    assert sorted(headings) == sorted(names)
    for alert in alerts:
        assert alert["labels"]["severity"] in {"page", "ticket"}
        assert alert["annotations"].keys() == {"summary", "description", "runbook"}
        assert alert["annotations"]["runbook"] == f"deploy/RUNBOOK.md#{alert['alert'].lower()}"


def test_dashboard_names_alerts_that_exist(panels: list[dict[str, Any]], alerts: list[dict[str, Any]]) -> None:
    said = set(re.findall(r"(?:Normtree|RayNode)\w+", " ".join(panel["description"] for panel in panels)))
    assert said
    assert said <= {alert["alert"] for alert in alerts}


def test_panels_have_numbers_of_their_own(dashboard: dict[str, Any]) -> None:
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(numbers)) == len(numbers)
    assert min(numbers) > 0
    assert len({panel["title"] for panel in dashboard["panels"]}) >= len(numbers) - 2


def test_panels_lie_beside_one_another(dashboard: dict[str, Any]) -> None:
    def cells(panel: dict[str, Any]) -> set[tuple[int, int]]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= COLUMNS
        assert min(at.values()) >= 0
        assert at["w"] * at["h"] > 0
        return {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}

    for one, other in combinations(dashboard["panels"], 2):
        assert not cells(one) & cells(other), (one["title"], other["title"])


def test_every_panel_has_unit_words_and_data(panels: list[dict[str, Any]]) -> None:
    assert len(panels) >= 15
    for panel in panels:
        assert panel["title"]
        assert len(panel["description"]) > 20
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        letters = [target["refId"] for target in panel["targets"]]
        assert letters
        assert len(set(letters)) == len(letters)
        for part in [panel, *panel["targets"]]:
            assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
        assert all(parse(target["expr"]) for target in panel["targets"]), panel["title"]


def test_variables_are_defined_and_used(dashboard: dict[str, Any]) -> None:
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    text = json.dumps(dashboard["panels"])
    assert set(re.findall(r"\$\{?([a-z]+)\b", text)) - {"__rate_interval"} == variables.keys()
    assert dashboard["uid"] == "normtree"
    assert dashboard["schemaVersion"] >= 39
