"""Shapes of strangers: checked against the limits before anything is made of that size."""

from collections.abc import Sequence

from normtree.errors import InvalidTensor

_TEXT_SHOWN = 40


def check_shape(
    shape: Sequence[int], where: str, *, rank_limit: int, elements_limit: int, pointer: str = "shape"
) -> int:
    """Check the lengths of the axes, their number and their product.

    Args:
        shape: integers, which may be negative.
        where: what has the shape, for the errors.
        rank_limit: largest number of axes.
        elements_limit: largest number of elements.
        pointer: the name of what is at fault.

    Returns:
        The number of elements.

    Raises:
        InvalidTensor: they are out of range.
    """
    check_rank(len(shape), where, rank_limit, pointer)
    for axis, length in enumerate(shape):
        if length < 0:
            detail = f"{where}[{axis}]: the length of an axis must be >= 0, got {length}"
            raise InvalidTensor(detail, pointer=pointer, limit=0, got=length)
    return count_elements(shape, where, elements_limit, pointer)


def check_rank(rank: int, where: str, limit: int, pointer: str = "shape") -> None:
    """Refuse too many axes.

    Raises:
        InvalidTensor: there are more than the limit.
    """
    if rank > limit:
        detail = f"{where}: at most {limit} axes are accepted, got {rank}"
        raise InvalidTensor(detail, pointer=pointer, limit=limit, got=rank)


def count_elements(shape: Sequence[int], where: str, limit: int, pointer: str = "shape") -> int:
    """Count the elements, never beyond the limit: neither slow for a thousand axes nor hidden by an empty one.

    NumPy computes strides from the other axes all the same.

    Raises:
        InvalidTensor: there are more than the limit, or would be but for an empty axis.
    """
    elements = 1
    for length in shape:
        elements *= max(length, 1)
        if elements > limit:
            shown = str(list(shape))[:_TEXT_SHOWN]
            detail = f"{where}: at most {limit} elements are accepted, got the shape {shown}"
            raise InvalidTensor(detail, pointer=pointer, limit=limit, got=shown)
    return 0 if 0 in shape else elements
