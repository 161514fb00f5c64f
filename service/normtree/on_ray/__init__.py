"""Project a tensor that a Ray cluster holds already, in blocks: the tree goes to the blocks, and they stay.

Tasks run on the nodes that hold their blocks, and each result stays on the node that made it. What crosses the
network is the fibres' norms, on their way to the root in the caller's process, and their radii, on the way back; of
fibres that several blocks hold parts of, what their chunks of 1,024 elements sum to.
"""

import math
from collections.abc import Iterable
from time import monotonic
from typing import Any

from normtree.extras import missing

if error := missing("normtree.on_ray", "ray"):
    raise error

from ray import ObjectRef

from normtree.on_ray.arguments import check_axis, check_blocks, check_deadline, check_exact, check_norm
from normtree.on_ray.ask import Ask, checked
from normtree.on_ray.home import Home, Projection
from normtree.on_ray.tasks import Tasks, told_apart
from normtree_kernels.norms.mixed_norm import Axes
from normtree_kernels.tree.goal import Goal

__all__ = ["Projection", "project", "project_timed"]


def project(
    blocks: Iterable[ObjectRef[Any]],
    norm: str,
    radius: float | None = None,
    *,
    axes: Axes | None = None,
    axis: int = 0,
    sparsity: float | None = None,
    groups: int | None = None,
    exact: bool = False,
    deadline_s: float | None = None,
) -> list[ObjectRef[Any]]:
    """Project a tensor held as blocks in the stores of a cluster; see `project_timed`, whose blocks it returns."""
    found = project_timed(
        blocks, norm, radius, axes=axes, axis=axis, sparsity=sparsity, groups=groups, exact=exact, deadline_s=deadline_s
    )
    return found.blocks


def project_timed(
    blocks: Iterable[ObjectRef[Any]],
    norm: str,
    radius: float | None = None,
    *,
    axes: Axes | None = None,
    axis: int = 0,
    sparsity: float | None = None,
    groups: int | None = None,
    exact: bool = False,
    deadline_s: float | None = None,
) -> Projection:
    """Project a tensor held as blocks in the object stores of a cluster, where they are; blocks until it is done.

    The result has the bits of `normtree_kernels.project` of the blocks concatenated, however many there are and
    wherever they lie. Ray is to be initialised, and normtree installed on its nodes.

    Args:
        blocks: references to NumPy arrays that are the tensor when concatenated along ``axis``, as a list or whatever
            yields them. Not changed.
        norm: norms of the levels from outer to inner, such as ``"l1,linf"``.
        radius: radius of the ball, finite and >= 0.
        axes: the levels' axes, such as ``"1,0"``; default: one a level from axis 0, the last takes the rest.
        axis: the axis along which the blocks lie. Best is one that the innermost level keeps, so that each block holds
            whole fibres. Else each holds a part of every fibre: any part where the innermost norm is ``linf``; for
            ``l1`` and ``l2``, and for ``exact``, parts that begin at multiples of 1,024 elements of a fibre.
        sparsity: instead of a radius, the share of the outermost groups that vanishes, 0 to 1.
        groups: instead of a radius, the number of outermost groups that survive.
        exact: whether it must be the Euclidean projection, where one is known.
        deadline_s: seconds it may take; None: as long as it takes.

    Raises:
        TypeError: blocks that are no references, by their position; another argument of another type.
        EngineUnavailable: Ray is not initialised in this process.
        InvalidParameter, InvalidTensor: arguments or blocks that cannot be; an element that is NaN or infinite, by its
            block and its index there; a norm that overflows.
        DeadlineExceeded: it took longer; its tasks have stopped between pieces of work, by their nodes' clocks.
        WorkersLost: blocks, or the workers at them, were lost with their nodes, and could not be made again.
        OutOfMemory: an object store, or a node, is full.

    Cost:
        A phase of tasks up and one down. Where blocks hold parts of ``l1`` fibres, where ``exact`` has its own
        algorithm, and where elements of one level are ranked, one more for each of the few steps of a search; of
        parts, each tells 16 bytes a chunk.
    """
    deadline_s = check_deadline(deadline_s)
    goal = checked(Goal, radius, sparsity, groups)
    norms, axis, exact, held = check_norm(norm), check_axis(axis), check_exact(exact), check_blocks(blocks)
    tasks = Tasks(held, math.inf if deadline_s is None else monotonic() + deadline_s)
    ask = Ask(norms, axes, axis, goal, exact, len(held))
    with told_apart(tasks, deadline_s):
        return Home(tasks, ask).project()
