"""The radius that leaves a wanted number of groups, in closed form."""

from normtree_kernels.arguments import not_finite
from normtree_kernels.arrays import Held
from normtree_kernels.dtypes import Array, check_tensor
from normtree_kernels.norms.mixed_norm import Axes, MixedNorm
from normtree_kernels.refusals import ValueRefused
from normtree_kernels.tree.goal import Goal, warn
from normtree_kernels.tree.projection import drive, project


def radius_for(
    y: Array,
    norm: str | MixedNorm,
    *,
    axes: Axes | None = None,
    sparsity: float | None = None,
    groups: int | None = None,
) -> float:
    """Find the radius whose ball leaves a wanted share or number of outermost groups.

    See `normtree_kernels.tree.goal.Goal.radius_of` for the formula.

    Args:
        y: tensor as for `normtree_kernels.project`. Not changed.
        norm: norms of the levels, the outermost l1.
        axes: the levels' axes; see `MixedNorm.parse`.
        sparsity: at least this share of the outermost groups vanishes, 0 to 1.
        groups: at most this many survive, 0 to all; give one of the two.

    Returns:
        The radius, in the units of the elements; for the multi-level projection, not for ``exact=True``.

    Raises:
        TypeError, ValueError: as `normtree_kernels.project`; an outermost level that is not l1.

    Warns:
        NothingLeftWarning: groups were asked for, and all that could be left are tied, so that none is.

    Cost:
        Reads the tensor once, and selects from its outermost groups' norms; of one level, a few times.

    Source:
        Closed form of the multi-level projection's root; the Euclidean projection on l1,linf has none.
    """
    y = check_tensor(y, "y")
    mixed = MixedNorm.parse(norm, axes, ndim=y.ndim)
    if (sparsity is None) == (groups is None):
        wanted, got = "exactly one of sparsity and groups", "none" if sparsity is None else "both"
        raise ValueRefused("sparsity", wanted, got, f"{wanted} is wanted, got {got}")
    goal = Goal(sparsity=sparsity, groups=groups)
    goal.check_fits(mixed, y.shape)
    if not y.size:  # its groups may be more than memory holds
        return 0.0
    held = Held.of(y, mixed, goal, threads=1)
    top = drive(project(held.problem(goal)), held.ask).top
    if not top.is_finite:
        raise not_finite(y, "y", mixed)
    warn(top.reach)
    return top.radius
