"""What comes of a job."""

from dataclasses import dataclass
from typing import Any

from normtree.jobs.plan.facts import Facts
from normtree.jobs.plan.job_plan import JobPlan
from normtree_kernels.tree.goal import nothing_left

_NAMED = 10  # tensors of which no group is left; of more the report's own numbers tell


@dataclass(frozen=True)
class JobOutcome:
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

    @property
    def notes(self) -> list[str]:
        """What a person should know of it that nobody asked: what the plan tells, and where no group is left."""
        scopes = [rule.scope for rule in self.plan.recipe.rules]
        told = {}
        for each in self.facts:
            text = nothing_left(each.groups_asked, each.groups_left)
            if text:
                whose = f"rules[{each.rule}]" if scopes[each.rule] == "global" else each.name
                told[whose] = f"{whose}: {text}"
        lines = list(told.values())
        more = [f"and {len(lines) - _NAMED} tensors more of which no group is left"] if len(lines) > _NAMED else []
        return [*self.plan.notes, *lines[:_NAMED], *more]
