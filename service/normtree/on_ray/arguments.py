"""The arguments of a projection in a cluster, checked where they come in: what is no reference ends Ray's process."""

import math
from collections.abc import Iterable
from operator import index
from typing import Any

import numpy as np
import ray
from ray import ObjectRef

from normtree.errors import EngineUnavailable, InvalidParameter, refusal
from normtree_kernels.norms.mixed_norm import named
from normtree_kernels.refusals import TypeRefused, ValueRefused
from normtree_kernels.vector_norm import Norm

_WANTED = "a list of references to arrays, such as [ray.put(block), …]"


def check_blocks(blocks: Iterable[ObjectRef[Any]]) -> list[ObjectRef[Any]]:
    """Return references to blocks as a list.

    Args:
        blocks: any iterable of them; one that yields each once is read once.

    Raises:
        TypeError: it is none, or something in it is no reference; the error tells where, and what it is.
        InvalidParameter: there are none, or one refers to nothing.
        EngineUnavailable: Ray is not initialised here.
    """
    if isinstance(blocks, ObjectRef):
        raise _refused("one reference", "; of a tensor in one block, give [reference]")
    if isinstance(blocks, np.ndarray) and blocks.dtype != object:
        advice = "; put it into the cluster first, or project it here: normtree_kernels.project"
        raise _refused("an array", advice)
    if isinstance(blocks, str | bytes | dict | set | frozenset) or not isinstance(blocks, Iterable):
        raise _refused(_kind(blocks))
    found = list(blocks)
    for position, block in enumerate(found):
        if not isinstance(block, ObjectRef):
            raise _refused(f"{_kind(block)} at position {position}", _advice(block))
        if block.is_nil():
            raise InvalidParameter(f"blocks: the reference at position {position} refers to nothing", pointer="blocks")
    if not found:
        raise InvalidParameter("blocks: wanted at least one block, got none", pointer="blocks", limit=1, got=0)
    if not ray.is_initialized():
        raise EngineUnavailable("Ray is not initialised in this process: call ray.init first")
    return found


def check_axis(axis: int) -> int:
    """Return the axis along which blocks lie.

    Raises:
        TypeError: it is no integer.
    """
    if isinstance(axis, bool) or not hasattr(axis, "__index__"):
        raise TypeRefused("axis", "an integer", _kind(axis))
    return index(axis)


def check_norm(norm: str) -> tuple[Norm, ...]:
    """Return the levels' norms; whether they fit depends on the blocks' axes.

    Raises:
        TypeError: it is no text.
        InvalidParameter: one is not known.
    """
    if not isinstance(norm, str):
        raise TypeRefused("norm", "text such as 'l1,linf'", _kind(norm))
    try:
        return tuple(named(part.strip()) for part in norm.split(","))
    except ValueRefused as error:
        raise refusal(error, InvalidParameter) from error


def check_exact(exact: bool) -> bool:
    """Return whether the projection must be the Euclidean one.

    Raises:
        TypeError: it is no truth value.
    """
    if not isinstance(exact, bool | np.bool_):
        raise TypeRefused("exact", "True or False", _kind(exact))
    return bool(exact)


def check_deadline(deadline_s: float | None) -> float | None:
    """Return the seconds that a projection may take; None: as long as it takes.

    Raises:
        TypeError: they are no number.
        InvalidParameter: they are NaN, or less than 0.
    """
    if deadline_s is None:
        return None
    if isinstance(deadline_s, bool) or not isinstance(deadline_s, int | float | np.integer | np.floating):
        raise TypeRefused("deadline_s", "seconds or None", _kind(deadline_s))
    if math.isnan(deadline_s) or deadline_s < 0:
        wanted, got = "seconds >= 0 or None", float(deadline_s)
        detail = f"deadline_s: wanted {wanted}, got {deadline_s}"
        raise InvalidParameter(detail, pointer="deadline_s", limit=wanted, got=got)
    return None if math.isinf(deadline_s) else float(deadline_s)


def _refused(got: str, advice: str = "") -> TypeRefused:
    return TypeRefused("blocks", _WANTED, got, f"wanted {_WANTED}, got {got}{advice}")


def _kind(value: object) -> str:
    """What a value is, for one who passed it by mistake."""
    return "None" if value is None else f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")


def _advice(block: object) -> str:
    if isinstance(block, np.ndarray):
        return ": ray.put makes a reference of it"
    return ": references are not to be nested" if isinstance(block, list | tuple) else ""
