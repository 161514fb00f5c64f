"""What is known of a tensor's projection afterwards: norms, radius, sparsity a level, and which groups are zero."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np

from normtree.jobs.plan.layout import Layout
from normtree.splits import parse_split
from normtree_kernels.dtypes import Float64Array, Int64Array
from normtree_kernels.norms.mixed_norm import MixedNorm
from normtree_kernels.tree.crown import Crown, climb
from normtree_kernels.tree.projection import Found

BINS = 48
OCTAVES = 6.0  # the histogram spans so many doublings to either side of the threshold
_GROUPS_ARE_FIBRES = 2  # levels; of so few the outermost groups are the fibres themselves
_EDGES = np.linspace(-OCTAVES, OCTAVES, BINS + 1)[1:-1]  # between two bins each


@dataclass(frozen=True)
class Facts:
    """A tensor's projection in numbers, each measured on what was written.

    Args:
        name: the tensor's name.
        shard: the file it is in.
        rule: index of its rule.
        norm: its mixed norm.
        axes: the levels' axes.
        shape: its shape.
        split: which of its axes are seen as several before the others are counted; see `normtree.splits`.
        dtype: its element type.
        norm_before: mixed norm of the input.
        norm_after: mixed norm of the output, in float64.
        radius: of the ball; of the one ball of all tensors where the rule's scope is global.
        threshold: groups of this norm and less vanish; None where the root is no l1 level.
        distance: Euclidean distance of the output from the input.
        groups: number of groups a level, outermost first; the last are the elements.
        zero_groups: how many of them are zero in the output.
        groups_asked: how many outermost groups were to survive at most, of all tensors together where the rule's scope
            is global; None where the goal was a radius.
        groups_left: how many of these do, as the root counts them.
        zeros: the outermost groups that are zero, as ranges: ``0-3,7``.
        histogram: outermost groups by the doublings of their norm from the threshold, or from their mean where there
            is no threshold; the first and last bins hold all beyond.
    """

    name: str
    shard: str
    rule: int
    norm: str
    axes: str
    shape: tuple[int, ...]
    split: str
    dtype: str
    norm_before: float
    norm_after: float
    radius: float
    threshold: float | None
    distance: float
    groups: tuple[int, ...]
    zero_groups: tuple[int, ...]
    groups_asked: int | None
    groups_left: int | None
    zeros: str
    histogram: tuple[int, ...]

    @property
    def seen(self) -> tuple[int, ...]:
        """The shape in which the axes are counted."""
        return parse_split(self.split).seen(self.shape)

    def as_dict(self) -> dict[str, Any]:
        """The facts as plain values, for JSON."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @classmethod
    def of_dict(cls, found: dict[str, Any]) -> Self:
        """Read what `as_dict` made."""
        listed = ("shape", "groups", "zero_groups", "histogram")
        return cls(**{**found, **{name: tuple(found[name]) for name in listed}})


@dataclass(frozen=True)
class Measured:
    """A tensor after its projection: its fibres' norms, (rows, width, rest…), the distance, and the elements left."""

    v: Float64Array
    distance: float
    nonzero: int


def facts_of(
    name: str, shard: str, rule: int, layout: Layout, found: Found, threshold: float | None, after: Measured
) -> Facts:
    """Put together what is known of a tensor.

    Args:
        name: of the tensor.
        shard: the file it is in.
        rule: index of its rule.
        layout: its rows.
        found: what was found for its projection.
        threshold: groups up to it vanish; see `threshold_of`.
        after: what was measured on the output.
    """
    norm = layout.norm
    levels = climb(norm, layout.to_norm(after.v))
    zero = [int(level.size - np.count_nonzero(level)) for level in levels[-2::-1]]
    size = math.prod(layout.shape)
    top = found.top
    return Facts(
        name=name,
        shard=shard,
        rule=rule,
        norm=norm.text,
        axes=norm.axes_text,
        shape=layout.own_shape,
        split=str(layout.split),
        dtype=layout.dtype,
        norm_before=top.norm,
        norm_after=float(levels[-1]),
        radius=top.radius,
        threshold=threshold,
        distance=after.distance,
        groups=(*(int(level.size) for level in levels[-2::-1]), size),
        zero_groups=(*zero, size - after.nonzero),
        groups_asked=top.reach.asked,
        groups_left=top.reach.left,
        zeros=ranges(np.flatnonzero(levels[-2] == 0.0)) if len(norm.levels) > 1 else "",
        histogram=histogram(_outermost(norm, layout.to_norm(found.v)), threshold),
    )


def threshold_of(norms: Sequence[MixedNorm], vs: Sequence[Float64Array], tops: Sequence[Crown]) -> float | None:
    """The most that a root takes away from a group's norm: groups of this norm and less vanish.

    Args:
        norms: mixed norms of the tensors under the root.
        vs: their fibres' norms, in the norms' orders of axes.
        tops: what the root found for each.
    """
    if not norms[0].levels[0].norm.vanishes or len(norms[0].levels) == 1:
        return None
    return max(
        float((_outermost(norm, v) - _outermost(norm, top.radii)).max(initial=0.0))
        for norm, v, top in zip(norms, vs, tops, strict=True)
    )


def _outermost(norm: MixedNorm, v: Float64Array) -> Float64Array:
    """The outermost groups' norms, in one row; for a single level the tensor is its own only group."""
    return climb(norm, v)[-2] if len(norm.levels) > _GROUPS_ARE_FIBRES else v.reshape(-1)


def histogram(outer: Float64Array, threshold: float | None) -> tuple[int, ...]:
    """Count groups by the doublings of their norm from the threshold, or from their mean where there is none."""
    unit = threshold or float(outer.mean()) if outer.size else 0.0
    if not unit > 0.0:
        return (outer.size, *[0] * (BINS - 1))
    with np.errstate(divide="ignore"):
        octaves = np.log2(outer / unit)
    counts = np.bincount(np.searchsorted(_EDGES, octaves, side="right"), minlength=BINS)
    return tuple(counts.tolist())


def ranges(indices: Int64Array) -> str:
    """Write ascending integers as ranges: ``0-3,7``."""
    begins = np.flatnonzero(np.diff(indices, prepend=-2) > 1)
    ends = np.append(begins[1:] - 1, indices.size - 1) if indices.size else begins
    runs = zip(indices[begins].tolist(), indices[ends].tolist(), strict=True)
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
