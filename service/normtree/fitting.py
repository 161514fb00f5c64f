"""Which of many tensors a norm fits, where nobody has named those to project."""

from normtree.splits import parse_split
from normtree_kernels.dtypes import ACCEPTED


def fits(rank: int, dtype: str, norm: str, axes: str | None, split: str | None = None) -> bool:
    """Tell whether a tensor can be projected onto a norm's balls.

    Args:
        rank: number of its axes.
        dtype: its element type; it may be a name that only its file's format knows.
        norm: norms of the levels, separated by commas.
        axes: axes of the levels; None: one a level, and the last takes the rest.
        split: which axes are seen as several; see `normtree.splits`.

    Returns:
        True where its type can be projected, and it has the axes that are split, and then an axis for each level, or
        exactly those that are named.
    """
    seen = parse_split(split)
    if dtype not in ACCEPTED or not seen.reaches(rank):
        return False
    rank += seen.added
    if axes is None:
        return rank >= norm.count(",") + 1
    return rank == sum(bool(axis.strip()) for level in axes.split(",") for axis in level.split("."))
