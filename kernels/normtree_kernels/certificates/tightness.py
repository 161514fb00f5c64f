"""Whether a projection reaches its sphere: what it lacks of its radius, and how much of that rounding explains."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ml_dtypes import finfo

from normtree_kernels.norms.mixed_norm import MixedNorm

_STEP = 2.0**-50  # of the radius: what a sum on its grid may lack for each element


@dataclass(frozen=True)
class Rounding:
    """How far rounding may leave the norm of a projection below its radius.

    Args:
        share: of the radius.
        least: whatever the radius: elements too small for their type are nothing.
    """

    share: float
    least: float

    @classmethod
    def of(cls, norm: MixedNorm, shape: tuple[int, ...], dtype: np.dtype[Any]) -> "Rounding":
        """Of a tensor of that shape and element type.

        Args:
            norm: bound to its axes.
            shape: of the tensor.
            dtype: of its elements.
        """
        info, least = finfo(dtype), 1.0  # type: ignore[no-untyped-call]
        for level in norm.levels:
            count = math.prod(shape[axis] for axis in level.axes)
            least *= level.norm.growth(count)
        margins = sum(level.norm.margin for level in norm.levels)
        share = float(info.eps) + margins + math.prod(shape) * _STEP
        return cls(share, least * float(info.smallest_subnormal))

    @classmethod
    def of_all(cls, each: Sequence["Rounding"]) -> "Rounding":
        """Of several tensors in one ball."""
        return cls(sum(one.share for one in each), sum(one.least for one in each))


def shortfall(norm_before: float, norm_after: float, radius: float) -> float:
    """The share of its radius, or of the tensor's norm where that is less, that a projection's norm lacks.

    From 0, where it lacks nothing, to 1 of zeros that stand for a tensor that is none, in a ball that is no point.
    """
    wanted = min(radius, norm_before)
    return max(1.0 - norm_after / wanted, 0.0) if wanted > 0.0 else 0.0


def is_tight(norm_before: float, norm_after: float, radius: float, rounding: Rounding) -> bool:
    """Tell whether rounding explains what a projection's norm lacks of its radius."""
    wanted = min(radius, norm_before)
    return wanted - norm_after <= rounding.share * wanted + rounding.least
