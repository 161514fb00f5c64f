"""Plans for the tensors of a request, before their data has come."""

from collections.abc import Sequence

from normtree.engine.plan import Plan
from normtree.engine.projector import Projector
from normtree.errors import NormtreeError
from normtree.http.bodies.contents import Entry
from normtree.http.query import PlanQuery


def plan_each(projector: Projector, entries: Sequence[Entry], query: PlanQuery) -> tuple[Plan, ...]:
    """Plan each tensor's projection.

    Raises:
        InvalidTensor, InvalidParameter: as `normtree.engine.projector.Projector.plan`; it names the tensor if there
            are several.
    """
    plans = []
    for entry in entries:
        try:
            plans.append(projector.plan(entry.shape, entry.dtype, **query.plan_options()))
        except NormtreeError as error:
            if len(entries) == 1:
                raise
            raise error.about(repr(entry.name)) from error
    return tuple(plans)
