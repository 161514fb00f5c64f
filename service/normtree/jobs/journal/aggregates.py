"""Aggregates that a job keeps of tensors whose root waits, as bytes: a sealed safetensors file of some of them."""

from collections.abc import Mapping

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from normtree.files.seal import seal, unseal
from normtree_kernels.dtypes import Float64Array


def to_bytes(vs: Mapping[int, Float64Array], about: bytes) -> bytes:
    """Write tensors' aggregates, by the tensors' indices, and seal them with what they belong to."""
    return seal(save({str(index): np.ascontiguousarray(v) for index, v in vs.items()}), about)


def of_bytes(sealed: bytes, shapes: Mapping[int, tuple[int, ...]], about: bytes) -> dict[int, Float64Array]:
    """Read what `to_bytes` wrote; nothing where a single bit is another, or they belong to something else.

    Args:
        sealed: the bytes.
        shapes: of the aggregates that are asked for, by the tensors' indices; all else is left out.
        about: what they belong to.
    """
    data = unseal(sealed, about)
    if data is None:
        return {}
    try:
        found = {int(name): v for name, v in load(data).items()}
    except (SafetensorError, ValueError):  # sealed, but somebody else's
        return {}
    return {i: v for i, v in found.items() if v.shape == shapes.get(i) and v.dtype == np.float64}
