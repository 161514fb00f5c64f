"""Goals: one of three, checked where they are made, and refused where a norm cannot reach them."""

from typing import Any

import numpy as np
import pytest

from normtree_kernels import MixedNorm
from normtree_kernels.tree.goal import Goal

ROWS = MixedNorm.parse("l1,linf", ndim=2)


@pytest.mark.parametrize(
    ("given", "text"),
    [({"radius": 10}, "radius 10"), ({"sparsity": 0.9}, "sparsity 0.9"), ({"groups": np.int64(3)}, "3 groups")],
)
def test_it_keeps_a_plain_number_and_says_which(given: dict[str, Any], text: str) -> None:
    goal = Goal(**given)
    assert str(goal) == text
    kept = [value for value in (goal.radius, goal.sparsity, goal.groups) if value is not None]
    assert kept == list(given.values())
    assert type(kept[0]) in (float, int)


@pytest.mark.parametrize(
    ("goal", "norm", "message"),
    [
        (Goal(groups=4), ROWS, "groups: wanted 0 to 3, the outermost groups there are, got 4"),
        (Goal(sparsity=0.5), MixedNorm.parse("l2,l1", ndim=2), "sparsity: only an outermost l1 level .* got l2"),
        (Goal(groups=1), MixedNorm.parse("linf", ndim=2), "groups: only an outermost l1 level .* got linf"),
    ],
)
def test_a_goal_that_cannot_be_reached_is_refused(goal: Goal, norm: MixedNorm, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        goal.check_fits(norm, (3, 7))


@pytest.mark.parametrize(
    ("sparsity", "total", "survivors"),
    [(0.0, 30, 30), (0.1, 30, 27), (0.11, 30, 26), (0.9, 7, 0), (1.0, 7, 0), (0.5, 0, 0)],
)
def test_a_share_zeroes_at_least_that_share(sparsity: float, total: int, survivors: int) -> None:
    assert Goal(sparsity=sparsity).survivors(total) == survivors


def test_the_radius_of_a_number_of_groups_is_the_closed_form() -> None:
    v = np.array([3.0, 2.0, 0.5])
    assert [Goal(groups=k).radius_of(v) for k in range(4)] == [0.0, 1.0, 4.0, 5.5]
    assert Goal(radius=2.0).radius_of(v) == 2.0


@pytest.mark.parametrize(
    ("v", "goal", "asked", "left"),
    [
        ([3.0, 2.0, 0.5], Goal(groups=2), 2, 2),
        ([3.0, 2.0, 2.0, 0.5], Goal(groups=2), 2, 1),
        ([2.0, 2.0, 2.0], Goal(groups=2), 2, 0),
        ([2.0, 2.0, 0.0], Goal(groups=3), 3, 2),
        ([2.0, 2.0, 0.0], Goal(groups=0), 0, 0),
        ([0.0, 0.0, 0.0], Goal(groups=2), 2, 2),
        ([3.0, 2.0, 1.0, 1.0], Goal(sparsity=0.25), 3, 2),
        ([3.0, 2.0], Goal(radius=1.0), None, None),
    ],
)
def test_what_is_reached_tells_groups_asked_and_left(
    v: list[float], goal: Goal, asked: int | None, left: int | None
) -> None:
    reach = goal.reach(np.array(v))
    assert (reach.asked, reach.left) == (asked, left)
    assert bool(reach.warning) == (bool(asked) and left == 0)
