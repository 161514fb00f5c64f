"""Mixed norms: which norm aggregates which axes, from the outermost level to the innermost."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from normtree_kernels.norms.l1 import L1
from normtree_kernels.norms.l2 import L2
from normtree_kernels.norms.linf import LINF
from normtree_kernels.refusals import TypeRefused, ValueRefused
from normtree_kernels.vector_norm import Norm

NORMS: dict[str, Norm] = {norm.name: norm for norm in (L1, L2, LINF)}
"""The registry: each one-vector norm by its name."""

MAX_LEVELS = 8

_PARTITION = "each axis in exactly one level"

Axes = str | Sequence[int | Sequence[int]]


@dataclass(frozen=True)
class Level:
    """One level of a mixed norm: a one-vector norm and the tensor's axes that it aggregates.

    Args:
        norm: a norm of the registry, or its name.
        axes: the axes of the level, each >= 0, ascending. None of them: fibres of length one.

    Raises:
        ValueError: unknown norm, or axes that are negative, repeated or out of order.
    """

    norm: Norm
    axes: tuple[int, ...]

    def __init__(self, norm: Norm | str, axes: tuple[int, ...]) -> None:
        """Look the norm up, and refuse a level that could not be evaluated."""
        object.__setattr__(self, "norm", norm if isinstance(norm, Norm) else named(norm))
        object.__setattr__(self, "axes", axes)
        if list(self.axes) != sorted(set(self.axes)) or any(axis < 0 for axis in self.axes):
            raise ValueRefused("axes", "distinct ascending axes >= 0", str(self.axes))


def named(name: str) -> Norm:
    """Return the norm of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in NORMS:
        wanted = f"one of {', '.join(NORMS)}"
        raise ValueRefused("norm", wanted, name, f"unknown norm {name!r}, wanted {wanted}")
    return NORMS[name]


@dataclass(frozen=True)
class MixedNorm:
    """A mixed norm bound to the axes of a tensor, levels from outer to inner: ``l1,linf`` is the l1,inf norm.

    Args:
        levels: outermost first; together they name every axis 0 … ndim-1 exactly once.

    Raises:
        ValueError: no level, more than eight, or axes that are no partition.
    """

    levels: tuple[Level, ...]

    def __post_init__(self) -> None:
        """Refuse levels whose axes are no partition of the tensor's axes."""
        if not 1 <= len(self.levels) <= MAX_LEVELS:
            raise ValueRefused("norm", f"1 to {MAX_LEVELS} levels", len(self.levels))
        named = sorted(axis for level in self.levels for axis in level.axes)
        if named != list(range(len(named))):
            why = f"every axis belongs to exactly one level, got {self.axes_text!r} for {len(named)} axes"
            raise ValueRefused("axes", _PARTITION, self.axes_text, why)

    @classmethod
    def parse(cls, norm: "str | tuple[Norm, ...] | MixedNorm", axes: Axes | None = None, *, ndim: int) -> Self:
        """Bind the text of a norm, and where given of its axes, to a tensor of ``ndim`` axes.

        Args:
            norm: levels from outer to inner, separated by commas: ``"l1,linf"``; or the norms themselves; or a norm
                bound already.
            axes: text such as ``"1,0"`` (columns are the groups) or ``"0,1.2.3"`` (filters of a convolution), or
                tuples such as ``(0, (1, 2, 3))``. Negative axes count from the end. An empty part is a level of
                fibres of length one. Default: one axis a level from axis 0, the last level takes all that remain.
            ndim: number of axes of the tensor.

        Raises:
            TypeError: ``norm`` or ``axes`` of another type.
            ValueError: an unknown norm, or axes that do not fit the tensor.
        """
        if isinstance(norm, MixedNorm):
            return cls._bound(norm, axes, ndim)
        names: tuple[Norm | str, ...]
        if isinstance(norm, tuple) and norm and all(isinstance(each, Norm) for each in norm):
            names, norm = norm, ",".join(map(str, norm))
        elif isinstance(norm, str):
            names = tuple(part.strip() for part in norm.split(","))
        else:
            raise TypeRefused("norm", "text such as 'l1,linf'", type(norm).__name__)
        parts = _default_axes(names, ndim) if axes is None else _parse_axes(axes, ndim)
        if len(parts) != len(names):
            why = f"norm {norm!r} has {len(names)} levels, but axes {axes!r} name {len(parts)}"
            raise ValueRefused("axes", len(names), len(parts), why)
        named = sorted(axis for part in parts for axis in part)
        if named != list(range(ndim)):
            why = f"each of the tensor's {ndim} axes must belong to exactly one level, got {axes!r}"
            raise ValueRefused("axes", _PARTITION, str(axes), why)
        return cls(tuple(Level(name, tuple(sorted(part))) for name, part in zip(names, parts, strict=True)))

    @classmethod
    def _bound(cls, norm: "MixedNorm", axes: Axes | None, ndim: int) -> Self:
        if axes is not None:
            why = "a MixedNorm names its axes already, so axes must be None"
            raise ValueRefused("axes", "None", str(axes), why)
        if norm.ndim != ndim:
            raise ValueRefused("norm", ndim, norm.ndim, f"it names {norm.ndim} axes, but the tensor has {ndim}")
        return cls(norm.levels)

    @cached_property
    def ndim(self) -> int:
        """Number of axes of the tensors this norm is for."""
        return sum(len(level.axes) for level in self.levels)

    @property
    def inner(self) -> Level:
        """The innermost level: the only one that reads the tensor itself."""
        return self.levels[-1]

    @cached_property
    def kept_axes(self) -> tuple[int, ...]:
        """The axes that the innermost level keeps, outermost level first."""
        return tuple(axis for level in self.levels[:-1] for axis in level.axes)

    @cached_property
    def order(self) -> tuple[int, ...]:
        """The permutation of the tensor's axes that puts the levels from outer to inner."""
        return self.kept_axes + self.inner.axes

    @cached_property
    def text(self) -> str:
        """The levels' norms as text, outer to inner: ``"l1,linf"``."""
        return ",".join(level.norm.name for level in self.levels)

    @cached_property
    def axes_text(self) -> str:
        """The levels' axes as text, outer to inner: ``"1,0"``."""
        return ",".join(".".join(str(axis) for axis in level.axes) for level in self.levels)

    def __str__(self) -> str:
        """The norm and its axes in one line."""
        return f"{self.text} over axes {self.axes_text}"


def _default_axes(names: tuple[Norm | str, ...], ndim: int) -> list[list[int]]:
    if len(names) > max(ndim, 1):
        why = (
            f"{','.join(map(str, names))!r} has {len(names)} levels, but the tensor has {ndim} axes; name the axes, "
            "an empty part for a level of fibres of length one (for a vector: axes='0,')"
        )
        raise ValueRefused("norm", max(ndim, 1), len(names), why)
    last = len(names) - 1
    return [[level] for level in range(last)] + [list(range(last, ndim))]


def _parse_axes(axes: Axes, ndim: int) -> list[list[int]]:
    if isinstance(axes, str):
        return [[_axis(item, ndim) for item in part.split(".") if part.strip()] for part in axes.split(",")]
    if not isinstance(axes, Sequence):
        raise TypeRefused("axes", "text such as '1,0' or a sequence of axes", type(axes).__name__)
    return [[_axis(item, ndim) for item in _items(part)] for part in axes]


def _items(part: object) -> Iterable[object]:
    return part if isinstance(part, Iterable) else (part,)


def _axis(item: object, ndim: int) -> int:
    try:
        axis = int(item) if isinstance(item, str) else _index(item)
    except ValueError:
        wanted = "integers, levels by commas and axes by dots"
        raise ValueRefused("axes", wanted, str(item), f"wanted {wanted}, got {item!r}") from None
    if not -ndim <= axis < ndim:
        why = f"axis {axis} is out of range for a tensor of {ndim} axes"
        raise ValueRefused("axes", f"axes >= {-ndim} and < {ndim}", axis, why)
    return axis % ndim


def _index(item: object) -> int:
    if isinstance(item, bool) or not hasattr(item, "__index__"):
        raise TypeRefused("axes", "integers", repr(item))
    return int(item.__index__())
