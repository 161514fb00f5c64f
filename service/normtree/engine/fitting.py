"""Which of many tensors a norm fits, where nobody has named those to project."""

from normtree_kernels.dtypes import ACCEPTED


def fits(rank: int, dtype: str, norm: str, axes: str | None) -> bool:
    """Tell whether a tensor can be projected onto a norm's balls.

    Args:
        rank: number of its axes.
        dtype: its element type; it may be a name that only its file's format knows.
        norm: norms of the levels, separated by commas.
        axes: axes of the levels; None: one a level, and the last takes the rest.

    Returns:
        True where its type can be projected, and it has an axis for each level, or exactly those that are named.
    """
    if dtype not in ACCEPTED:
        return False
    if axes is None:
        return rank >= norm.count(",") + 1
    return rank == sum(bool(axis.strip()) for level in axes.split(",") for axis in level.split("."))
