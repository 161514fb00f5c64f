"""Several tensors under one root: what their plans must have in common."""

import math
from collections.abc import Sequence

from normtree.engine.plan import Plan
from normtree.errors import InvalidParameter, InvalidTensor, refusal
from normtree_kernels.refusals import ValueRefused
from normtree_kernels.tree.goal import Goal

EMPTY_LIMIT = 1 << 20
"""Groups of a tensor without elements that shares a ball: what is kept of each is counted by elements elsewhere."""


def check_together(plans: Sequence[Plan], goal: Goal) -> None:
    """Refuse plans that have no common root, or a goal that they cannot reach together.

    Raises:
        InvalidParameter, InvalidTensor: the pointer names what is at fault.
    """
    outer = {plan.norm.levels[0].norm for plan in plans}
    if len(outer) != 1:
        got = ", ".join(sorted(map(str, outer))) or "no tensor"
        wanted = "one outermost norm for all tensors"
        raise InvalidParameter(f"norm: {wanted} is wanted, got {got}", pointer="norm", limit=wanted, got=got)
    if len(plans) > 1 and any(len(plan.norm.levels) == 1 for plan in plans):
        detail = "norm: one root for several tensors wants two levels or more, got one"
        raise InvalidParameter(detail, pointer="norm", limit=2, got=1)
    if any(plan.exact for plan in plans):
        raise InvalidParameter("exact: no exact projection of several tensors together is known", pointer="exact")
    for plan in plans:
        if not plan.nbytes and math.prod(plan.kept_shape) > EMPTY_LIMIT:
            detail = f"at most {EMPTY_LIMIT} groups without elements share a ball with others, got shape {plan.shape}"
            raise InvalidTensor(f"shape: {detail}", pointer="shape", limit=EMPTY_LIMIT, got=str(plan.shape))
    total = sum(math.prod(plan.shape[axis] for axis in plan.norm.levels[0].axes) for plan in plans)
    try:
        goal.check_groups(outer.pop(), total)
    except ValueRefused as error:
        raise refusal(error, InvalidParameter) from error
