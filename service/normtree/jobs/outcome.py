"""What comes of a job."""

from dataclasses import dataclass
from typing import Any

from normtree.jobs.facts import Facts
from normtree.jobs.plan import JobPlan


@dataclass(frozen=True)
class Outcome:
    """What came of a job.

    Args:
        plan: what was planned.
        facts: what is known of each projected tensor, in the order of their bytes.
        stints: when workers did what, in all attempts.
        summary: engine, workers, nodes, walls and bytes, for the report.
        state_url: the folder with the journal and the report.
        resumed: whether an earlier run had begun it.
        was_completed: whether an earlier run had done all of it.
    """

    plan: JobPlan
    facts: tuple[Facts, ...]
    stints: tuple[dict[str, Any], ...]
    summary: dict[str, Any]
    state_url: str
    resumed: bool
    was_completed: bool
