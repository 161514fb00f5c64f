"""Plans for the tensors of a request, before their data has come."""

from collections.abc import Sequence
from dataclasses import replace

from normtree.engine.cancel import Cancel
from normtree.engine.common_root import check_together
from normtree.engine.plan import Plan
from normtree.engine.projector import Projector
from normtree.errors import Cancelled, NormtreeError
from normtree.formats.contents import Entry
from normtree.http.head.query import PlanQuery, WorkQuery


def plan_all(
    projector: Projector, entries: Sequence[Entry], query: WorkQuery, cancel: Cancel | None = None
) -> tuple[Plan, ...]:
    """Plan the projection of a request's tensors, each on its ball or all on one, as the query's scope says.

    Args:
        projector: plans.
        entries: the tensors.
        query: how they are to be projected.
        cancel: set when nobody wants the plans any more; None where they are made at once.

    Raises:
        InvalidTensor, InvalidParameter: as `normtree.engine.projector.Projector.plan`, naming the tensor where there
            are several; or the tensors cannot be projected together.
        Cancelled: nobody wants the plans any more.
    """
    if query.scope == "tensor" or len(entries) == 1:
        return _plan_each(projector, entries, query, cancel)
    # Only all tensors together can tell whether a goal can be reached, so each is planned with one that always can.
    reachable = query.model_copy(update={"radius": 0.0, "sparsity": None, "groups": None})
    plans = _plan_each(projector, entries, reachable, cancel)
    check_together(plans, query.goal)
    leading = max(plans, key=lambda plan: plan.serial_ms)  # one tree has one engine
    return tuple(replace(plan, goal=query.goal, engine=leading.engine, reason=leading.reason) for plan in plans)


def _plan_each(
    projector: Projector, entries: Sequence[Entry], query: PlanQuery, cancel: Cancel | None = None
) -> tuple[Plan, ...]:
    """Plan each tensor's projection, and name the one at fault if there are several."""
    plans = []
    for entry in entries:
        if cancel and cancel.is_set:
            raise Cancelled("nobody waits for the plans any more")
        try:
            plans.append(projector.plan(entry.shape, entry.dtype, **query.plan_options()))
        except NormtreeError as error:
            if len(entries) == 1:
                raise
            raise error.about(repr(entry.name)) from error
    return tuple(plans)
