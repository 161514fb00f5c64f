"""Tensors of other libraries to NumPy and back: what comes in as torch goes out as torch, all else as NumPy."""

import sys
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Restore = Callable[[Array], Any]


def as_array(tensor: object, where: str) -> tuple[Array, Restore]:
    """Return a tensor as a NumPy array in C order and little-endian, and what makes its like of such an array.

    Args:
        tensor: an array, a torch tensor, or anything with ``__array__`` or ``__dlpack__``.
        where: its name, for errors.

    Returns:
        The array, which shares memory with the tensor where it can, and the way back.

    Raises:
        TypeError: it is none of them.
    """
    torch = sys.modules.get("torch")  # who has a torch tensor has imported it
    if torch is not None and isinstance(tensor, torch.Tensor):
        return _plain(_of_torch(tensor, torch)), lambda x: _to_torch(x, tensor, torch)
    if hasattr(tensor, "__array__"):
        return _plain(np.asarray(tensor)), _same
    if hasattr(tensor, "__dlpack__"):
        return _plain(np.from_dlpack(tensor)), _same
    raise TypeError(f"{where}: wanted an array, or what has __array__ or __dlpack__, got {type(tensor).__name__}")


def _plain(array: Array) -> Array:
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(array.shape)


def _same(x: Array) -> Array:
    return x


def _of_torch(tensor: Any, torch: Any) -> Array:
    """Return a torch tensor's elements; bfloat16, which NumPy has no name for, by its bits."""
    host = tensor.detach().cpu().contiguous()
    if host.dtype == torch.bfloat16:
        bits: Array = host.view(torch.int16).numpy()
        return bits.view(ml_dtypes.bfloat16)
    found: Array = host.numpy()
    return found


def _to_torch(x: Array, like: Any, torch: Any) -> Any:
    """Return a torch tensor on the device of another, which shares memory with ``x`` where it can."""
    if x.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16).to(like.device)
    return torch.from_numpy(x).to(like.device)
