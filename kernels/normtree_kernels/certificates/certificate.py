"""Certificates: what can be said of a projection afterwards, from the tensor and the result alone."""

import math
from dataclasses import asdict, dataclass, replace

import numpy as np

from normtree_kernels.arguments import check_radius, not_finite
from normtree_kernels.arrays import Held
from normtree_kernels.certificates.tightness import Rounding, is_tight, shortfall
from normtree_kernels.compiled.lanes import chunk_count
from normtree_kernels.dtypes import Array, Float64Array, check_tensor
from normtree_kernels.norms.l2 import L2
from normtree_kernels.norms.mixed_norm import Axes, Level, MixedNorm
from normtree_kernels.parts.gathered import Gathered
from normtree_kernels.parts.part import fold
from normtree_kernels.parts.questions import Norms
from normtree_kernels.refusals import ValueRefused
from normtree_kernels.sweeps import sweep
from normtree_kernels.tree.blocks import cut
from normtree_kernels.tree.crown import climb
from normtree_kernels.tree.pieces import as_piece

_BLOCK_BYTES = 1 << 23


@dataclass(frozen=True)
class Certificate:
    """Evidence that X is a projection of Y onto a ball, all in float64.

    Args:
        norm_before: mixed norm of Y.
        norm_after: mixed norm of X.
        radius: of the ball.
        feasible: whether ``norm_after <= radius``; no tolerance.
        tight: whether X reaches the sphere, or is Y: ``norm_after`` is the lesser of ``radius`` and ``norm_before``, up
            to what rounding may take. What vanishes because its type has no such small numbers is rounding too.
        shortfall: the share of that lesser one that ``norm_after`` lacks: 0 where nothing is lost, 1 where all is.
        distance: Euclidean distance of X from Y.
        groups: number of groups a level, outermost first; the last are the elements.
        zero_groups: how many of them are zero in X.
        identity_residual: | norm(Y - X) + norm(X) - norm(Y) | / norm(Y): rounding only, for multi-level and
            Euclidean projections alike.
        duality_gap: (radius times the dual norm of Y - X, less the inner product of Y - X and X) / norm_before**2:
            zero, up to rounding, where X is the nearest point of the ball, positive where it is not. NaN where a level
            has a norm whose dual is not in the registry.
    """

    norm_before: float
    norm_after: float
    radius: float
    feasible: bool
    tight: bool
    shortfall: float
    distance: float
    groups: tuple[int, ...]
    zero_groups: tuple[int, ...]
    identity_residual: float
    duality_gap: float

    def as_dict(self) -> dict[str, object]:
        """The certificate as plain values, for JSON; a gap that nobody knows is None."""
        gap = None if math.isnan(self.duality_gap) else self.duality_gap
        return {**asdict(self), "duality_gap": gap}


def certify(y: Array, x: Array, norm: str | MixedNorm, radius: float, *, axes: Axes | None = None) -> Certificate:
    """Certify a projection.

    Args:
        y: the tensor. Not changed.
        x: its projection, of the same shape and dtype. Not changed.
        norm: norms of the levels from outer to inner; or a `MixedNorm`.
        radius: radius of the ball, finite and >= 0.
        axes: the levels' axes; see `MixedNorm.parse`.

    Raises:
        TypeError, ValueError: as `normtree_kernels.project`; a result of another shape or dtype.

    Cost:
        Reads both tensors a few times, with float64 copies of 8 MiB at a time.
    """
    y, x = check_tensor(y, "y"), check_tensor(x, "x")
    mixed = MixedNorm.parse(norm, axes, ndim=y.ndim)
    radius = check_radius(radius)
    if (x.shape, x.dtype) != (y.shape, y.dtype):
        raise ValueRefused("x", f"shape {y.shape} and dtype {y.dtype} as y", f"{x.shape} and {x.dtype}")
    if not y.size:
        return _of_nothing(mixed, y.shape, radius)
    before, after = climb(mixed, Held(y, mixed).norms()), climb(mixed, Held(x, mixed).norms())
    for name, tensor, top in (("y", y, before[-1]), ("x", x, after[-1])):
        if not np.isfinite(top):
            raise not_finite(tensor, name, mixed)
    norm_before, norm_after = float(before[-1]), float(after[-1])
    scale = norm_before or 1.0
    gone = _difference(y, x, mixed, scale)
    levels = [*after[-2::-1], x] if len(mixed.levels) > 1 else [x]
    return Certificate(
        norm_before=norm_before,
        norm_after=norm_after,
        radius=radius,
        feasible=norm_after <= radius,
        tight=is_tight(norm_before, norm_after, radius, Rounding.of(mixed, y.shape, y.dtype)),
        shortfall=shortfall(norm_before, norm_after, radius),
        distance=gone.distance,
        groups=tuple(int(level.size) for level in levels),
        zero_groups=tuple(int(level.size - np.count_nonzero(level)) for level in levels),
        identity_residual=abs(gone.norm + norm_after - norm_before) / scale,
        duality_gap=radius / scale * (gone.dual_norm / scale) - gone.inner,
    )


def _of_nothing(mixed: MixedNorm, shape: tuple[int, ...], radius: float) -> Certificate:
    """Certify a tensor without elements, whose groups may be more than memory holds."""
    groups, count = [], 1
    for level in mixed.levels:
        count *= math.prod(shape[axis] for axis in level.axes)
        groups.append(count)
    told = tuple(groups)
    return Certificate(0.0, 0.0, radius, True, True, 0.0, 0.0, told, told, 0.0, 0.0)


@dataclass(frozen=True)
class _Difference:
    """What Y - X measures: its mixed norm, its dual norm, its length; and its inner product with X, both over scale."""

    norm: float
    dual_norm: float
    distance: float
    inner: float


def _difference(y: Array, x: Array, mixed: MixedNorm, scale: float) -> _Difference:
    """Measure Y - X block by block, so that no float64 copy of the whole is made."""
    dual = MixedNorm(tuple(Level(level.norm.dual or level.norm, level.axes) for level in mixed.levels))
    pieces = [as_piece(y.shape, mixed, block) for block in cut(y.shape, mixed, max(1, y.size * 8 // _BLOCK_BYTES))]
    slots = chunk_count(pieces[0].whole) if pieces[0].elements else 1
    kept = [y.shape[axis] for axis in mixed.kept_axes]
    norms, duals = ((each, Gathered.of_shape(Norms(each.inner.norm), slots, kept)) for each in (mixed, dual))
    lengths, inners = [], []
    for piece in pieces:
        before, after = (piece.part(tensor.transpose(mixed.order)) for tensor in (y, x))
        projected = after.fibres.astype(np.float64)
        gone = replace(before, fibres=before.fibres.astype(np.float64) - projected)
        for each, gathered in (norms, duals):
            gathered.put(piece.slots, piece.fibres, Norms(each.inner.norm).of(gone))
        lengths.append(_length(gone.fibres))
        inners.append(float(np.vdot(gone.fibres / scale, projected / scale)))
    norm, dual_norm = (
        float(climb(each, fold(each.inner.norm, gathered.whole[0]))[-1]) for each, gathered in (norms, duals)
    )
    return _Difference(
        norm=norm,
        dual_norm=dual_norm if all(level.norm.dual for level in mixed.levels) else math.nan,
        distance=_length(np.asarray(lengths)),
        inner=math.fsum(inners),
    )


def _length(values: Float64Array) -> float:
    return float(sweep.up(L2, values, 0))
