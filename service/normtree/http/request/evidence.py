"""Certificates of a request's projections: of a tensor on its own ball, and of several on one."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normtree_kernels.arrays import Held
from normtree_kernels.certificates.certificate import certify
from normtree_kernels.certificates.tightness import Rounding, is_tight, shortfall
from normtree_kernels.norms.mixed_norm import MixedNorm
from normtree_kernels.sweeps import sweep
from normtree_kernels.tree.crown import climb, root_order

Told = dict[str, object]


@dataclass(frozen=True)
class Pair:
    """A tensor, its projection, and by which norm."""

    y: NDArray[Any]
    x: NDArray[Any]
    norm: MixedNorm


def certify_one(pair: Pair, radius: float, groups_asked: int | None = None) -> Told:
    """Return evidence for a projection, and by which digests its input and output can be recognised.

    Args:
        pair: the tensor and its projection.
        radius: of the ball.
        groups_asked: how many outermost groups were to survive at most; None where that was not asked.
    """
    evidence = certify(pair.y, pair.x, pair.norm, radius).as_dict()
    asked = {} if groups_asked is None else {"groups_asked": groups_asked}
    return {**evidence, **asked, "sha256_before": _digest(pair.y), "sha256_after": _digest(pair.x)}


def certify_together(pairs: Sequence[Pair], radius: float, groups_asked: int | None = None) -> tuple[Told, list[Told]]:
    """Return evidence for tensors that were projected onto one ball, and for each on its own.

    No tensor alone can tell whether all lie in the ball that they share. So each is certified against its share of it,
    the norm that it has now, and the norm of all, their outermost groups taken as one vector, against the radius.

    Args:
        pairs: of two levels or more, with one outermost norm.
        radius: of the ball that they share.
        groups_asked: how many of their outermost groups were to survive at most; None where that was not asked.

    Raises:
        ValueError: as `normtree_kernels.certify`.
    """
    before, after = ([climb(pair.norm, Held(z, pair.norm).norms()) for pair, z in side] for side in _sides(pairs))
    each = [certify_one(pair, float(levels[-1])) for pair, levels in zip(pairs, after, strict=True)]
    order = root_order([levels[-2] for levels in before])
    outer = pairs[0].norm.levels[0].norm
    vectors = [np.concatenate([levels[i][-2] for i in order]) for levels in (before, after)]
    norm_before, norm_after = (float(sweep.up(outer, vector, 0)) for vector in vectors)
    rounding = Rounding.of_all([Rounding.of(pair.norm, pair.y.shape, pair.y.dtype) for pair in pairs])
    whole: Told = {
        "norm_before": norm_before,
        "norm_after": norm_after,
        "radius": radius,
        "feasible": norm_after <= radius,
        "tight": is_tight(norm_before, norm_after, radius, rounding),
        "shortfall": shortfall(norm_before, norm_after, radius),
        "distance": math.hypot(*(float(str(one["distance"])) for one in each)),
        "groups": vectors[1].size,
        "zero_groups": int(vectors[1].size - np.count_nonzero(vectors[1])),
        **({} if groups_asked is None else {"groups_asked": groups_asked}),
    }
    return whole, each


def _sides(pairs: Sequence[Pair]) -> tuple[list[tuple[Pair, NDArray[Any]]], list[tuple[Pair, NDArray[Any]]]]:
    return [(pair, pair.y) for pair in pairs], [(pair, pair.x) for pair in pairs]


def _digest(array: NDArray[Any]) -> str:
    """Return the SHA-256 of the elements in C order, little-endian: the same whatever a tensor travelled in."""
    return hashlib.sha256(np.ascontiguousarray(array).view(np.uint8).data).hexdigest()
