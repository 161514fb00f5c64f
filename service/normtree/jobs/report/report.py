"""The report of a job: all its numbers as ``report.json``, and one page of pictures, ``report.html``."""

import json
import uuid
from heapq import nlargest
from importlib.resources import files
from string import Template
from typing import Any, Literal

import ml_dtypes  # noqa: F401 - makes "bfloat16" a name that NumPy knows
import numpy as np

from normtree.engine.timing.schema import LevelTiming, Span, Timing
from normtree.jobs.plan.facts import Facts
from normtree.jobs.recipe import Rule
from normtree.jobs.report import pictures
from normtree.jobs.report.floor import Floor
from normtree.jobs.report.outcome import JobOutcome
from normtree.jobs.report.removal import removals_of
from normtree.jobs.storage.state import State
from normtree_kernels.certificates.tightness import Rounding, is_tight, shortfall
from normtree_kernels.norms.mixed_norm import MixedNorm

JSON_NAME, HTML_NAME = "report.json", "report.html"
_SWEEPS = ("whole", "up", "round", "down")
_SHOWN_INDICES = 60
_SHOWN_ROWS = 200  # of a table of the page; what else there is, is in the other file


def write_report(state: State, outcome: JobOutcome, floor: Floor | None) -> dict[str, Any]:
    """Write both files beside the output, and return what is in the first."""
    report = make_report(outcome, floor)
    state.write(JSON_NAME, to_json(report).encode())
    state.write(HTML_NAME, make_page(report, outcome).encode())
    return report


def to_json(report: dict[str, Any]) -> str:
    """Write a report so that lines are short enough to be found and few enough to be read: a tensor is one."""
    parts = (f"{json.dumps(name)}:{_listed(value)}" for name, value in report.items())
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _listed(value: object) -> str:
    """Write a value in one line; a list of tables in a line each, alone or inside of a table."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n" + ",\n".join(map(_compact, value)) + "\n]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(name)}:{_listed(each)}" for name, each in value.items()) + "}"
    return _compact(value)


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def make_report(outcome: JobOutcome, floor: Floor | None) -> dict[str, Any]:
    """Put the numbers of a job together, as plain values.

    Args:
        outcome: of the job.
        floor: what a mere copy took; None where none could be made.
    """
    plan, summary = outcome.plan, outcome.summary
    rules, removals = plan.recipe.rules, [removal.as_dict() for removal in removals_of(outcome.facts)]
    return {
        "input": plan.recipe.input,
        "output": plan.recipe.output,
        "recipe": plan.recipe.model_dump(mode="json", exclude_none=True),
        **summary,
        "bytes": plan.checkpoint.nbytes,
        "projected_bytes": plan.projected_bytes,
        "bytes_per_s": plan.checkpoint.nbytes / summary["wall_s"] if summary["wall_s"] else 0.0,
        "copy_floor": {"bytes": floor.nbytes, "seconds": floor.seconds, "bytes_per_s": floor.bytes_per_s}
        if floor
        else None,
        "timing": _timing(outcome),
        "rules": _rules(outcome),
        "tensors": [{**each.as_dict(), "certificate": _certificate(each, rules[each.rule])} for each in outcome.facts],
        "removal_plan": {
            "bytes_saved": sum(removal["bytes_saved"] for removal in removals),
            "tensors": removals,
        },
        "notes": outcome.notes,
    }


def make_page(report: dict[str, Any], outcome: JobOutcome) -> str:
    """Draw the report as one page that needs nothing else."""
    stints = [stint for stint in outcome.stints if stint["start_ns"] >= outcome.summary["began_ns"]]
    floor = report["copy_floor"]["bytes_per_s"] if report["copy_floor"] else None
    page = Template((files("normtree.jobs.report") / HTML_NAME).read_text("utf-8"))
    return page.substitute(
        title=pictures.text(f"{report['input']} → {report['output']}"),
        summary=_summary(report),
        notes="".join(f"<p>{pictures.text(note)}</p>" for note in report["notes"]),
        sparsity=pictures.sparsity(outcome.facts, len(report["rules"]))
        + pictures.legend([f"rules[{i}] {rule['tensors']}" for i, rule in enumerate(report["rules"])]),
        histograms="".join(
            pictures.histogram(f"rules[{i}] {rule['tensors']}", rule["histogram"], i, threshold=rule["vanishing"])
            for i, rule in enumerate(report["rules"])
        ),
        timeline=pictures.timeline(stints),
        rate=pictures.rate(stints, floor),
        removal=_removal_rows(report["removal_plan"]["tensors"]),
        tensors=_tensor_rows(report["tensors"]),
    )


def _timing(outcome: JobOutcome) -> dict[str, object]:
    """Fill the timing schema of all projections; ``radius`` is null where there are several."""
    rules, summary = outcome.plan.recipe.rules, outcome.summary
    spans = [_span(stint) for stint in outcome.stints]
    sweeps = [span for span, stint in zip(spans, outcome.stints, strict=True) if stint["kind"] in _SWEEPS]
    stages = {"place": 1e3 * summary["start_s"], "total": 1e3 * (summary["wall_s"] + summary["start_s"])}
    longest = {stage: max((span.ms for span in spans if span.stage == stage), default=0.0) for stage in ("up", "down")}
    radii = {facts.radius for facts in outcome.facts}
    norm = "; ".join(dict.fromkeys(rule.norm for rule in rules))
    work_ms = sum(span.ms for span in spans)
    timing = Timing(
        engine=summary["engine"],
        reason="all tasks of the job; the serial time is the sum of their times",
        norm=norm,
        axes="; ".join(dict.fromkeys(facts.axes for facts in outcome.facts)),
        radius=max(radii, default=0.0),
        shape=(),
        dtype=", ".join(dict.fromkeys(facts.dtype for facts in outcome.facts)),
        blocks=len(spans),
        workers=summary["workers"],
        nodes=summary["nodes"],
        stages_ms=stages,
        levels=(LevelTiming.of(norm, [[span for span in sweeps if span.stage == stage] for stage in ("up", "down")]),),
        work_ms=work_ms,
        span_ms=sum(longest.values()),
        wall_ms=1e3 * summary["wall_s"],
        serial_ms=work_ms,
        serial_is="summed",
        retries=summary["retries"],
        bytes_moved=sum(span.nbytes for span in spans),
        trace_id=uuid.uuid4().hex,
    )
    return timing.as_dict() | ({} if len(radii) == 1 else {"radius": None})


def _span(stint: dict[str, Any]) -> Span:
    stage: Literal["up", "down"] = "up" if stint["kind"] in ("up", "round") else "down"
    nbytes = stint["read"] + stint["written"]
    return Span(stage, 0, stint["start_ns"], stint["stop_ns"], nbytes, 0)


def _rules(outcome: JobOutcome) -> list[dict[str, Any]]:
    """Sum up the tensors of each rule."""
    rules = outcome.plan.recipe.rules
    facts: list[list[Facts]] = [[] for _ in rules]
    for each in outcome.facts:
        facts[each.rule].append(each)
    return [_rule(*each) for each in zip(rules, facts, strict=True)]


def _rule(rule: Rule, facts: list[Facts]) -> dict[str, Any]:
    groups, zero = (sum(getattr(each, name)[0] for each in facts) for name in ("groups", "zero_groups"))
    return {
        "tensors": rule.tensors,
        "norm": rule.norm,
        "goal": rule.goal,
        "scope": rule.scope,
        "count": len(facts),
        "groups": groups,
        "zero_groups": zero,
        "zero_share": zero / groups if groups else 0.0,
        "groups_asked": _asked(rule, [each.groups_asked for each in facts]),
        "groups_left": _asked(rule, [each.groups_left for each in facts]),
        "vanishing": any(each.threshold is not None for each in facts),
        "histogram": [sum(counts) for counts in zip(*(each.histogram for each in facts), strict=True)],
    }


def _asked(rule: Rule, counts: list[int | None]) -> int | None:
    """Add what was asked of, or is left of, each tensor; of those that share a ball each tells of all."""
    known = [count for count in counts if count is not None]
    if len(known) < len(counts) or not known:
        return None
    return known[0] if rule.scope == "global" else sum(known)


def _certificate(facts: Facts, rule: Rule) -> dict[str, object]:
    """What was measured of the output that a certificate tells; the duality gap is `normtree_kernels.certify`'s.

    Of a tensor that shares its ball no norm alone tells whether they reach the sphere.
    """
    told: dict[str, object] = {
        "feasible": facts.norm_after <= facts.radius,
        "norm_after": facts.norm_after,
        "distance": facts.distance,
    }
    if rule.scope == "global":
        return told
    norms = facts.norm_before, facts.norm_after, facts.radius
    mixed = MixedNorm.parse(facts.norm, facts.axes, ndim=len(facts.seen))
    rounding = Rounding.of(mixed, facts.seen, np.dtype(facts.dtype))
    return {**told, "tight": is_tight(*norms, rounding), "shortfall": shortfall(*norms)}


def _summary(report: dict[str, Any]) -> str:
    floor = report["copy_floor"]
    cards = {
        "bytes": f"{report['bytes']:,}",
        "seconds": f"{report['wall_s']:.2f}",
        "rate": f"{report['bytes_per_s'] / 1e9:.2f} GB/s",
        "copy floor": f"{floor['bytes_per_s'] / 1e9:.2f} GB/s" if floor else "not measured",
        "tensors projected": f"{len(report['tensors'])}",
        "groups that are zero": f"{sum(rule['zero_groups'] for rule in report['rules']):,}",
        "bytes that could go": f"{report['removal_plan']['bytes_saved']:,}",
        "tasks run again": "not counted" if report["retries"] is None else f"{report['retries']:,}",
        "ran on": f"{report['workers']} × {report['engine']}, {report['nodes']} × node",
    }
    return "".join(f"<div><dt>{name}</dt><dd>{pictures.text(value)}</dd></div>" for name, value in cards.items())


def _removal_rows(removals: list[dict[str, Any]]) -> str:
    shown = _most(removals, "bytes_saved")
    rows = [
        pictures.row(
            removal["tensor"],
            f"{removal['zero']} of {removal['of']} {removal['kind']}",
            "×".join(map(str, removal["shape"])),
            "×".join(map(str, removal["shape_without"])) if removal["axis"] is not None else "as it is",
            f"{removal['bytes_saved']:,}",
            _shortened(removal["indices"]),
        )
        for removal in shown
    ]
    return "".join(rows) + _left_out(len(removals) - len(shown), "that save less")


def _tensor_rows(tensors: list[dict[str, Any]]) -> str:
    shown = _most(tensors, "groups")
    rows = [
        pictures.row(
            tensor["name"],
            "×".join(map(str, tensor["shape"])),
            tensor["dtype"],
            f"{tensor['norm']} over {tensor['axes']}",
            *(f"{tensor[name]:.6g}" for name in ("norm_before", "norm_after", "radius", "distance")),
            " · ".join(f"{zero}/{of}" for zero, of in zip(tensor["zero_groups"], tensor["groups"], strict=True)),
        )
        for tensor in shown
    ]
    return "".join(rows) + _left_out(len(tensors) - len(shown), "that are no larger")


def _most(tables: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    """Choose the rows to show, those with the most, or of lists the most at the end; they stay in their order."""

    def much(index: int) -> int:
        found = tables[index][key]
        return int(found[-1] if isinstance(found, tuple) else found)

    return [tables[index] for index in sorted(nlargest(_SHOWN_ROWS, range(len(tables)), key=much))]


def _left_out(count: int, which: str) -> str:
    return pictures.row(f"and {count:,} more {which}, in {JSON_NAME}") if count else ""


def _shortened(indices: str) -> str:
    return indices if len(indices) <= _SHOWN_INDICES else f"{indices[:_SHOWN_INDICES]} …"
