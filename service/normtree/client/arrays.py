"""Tensors of other libraries to NumPy and back: what comes in as torch goes out as torch, all else as NumPy."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normtree.formats.elements import BY_CODE, is_plain

Array = NDArray[Any]
Restore = Callable[[Array], Any]

# Types that NumPy itself does not have and torch has by the same names, and integers of as many bits.
_BITS = {
    element.name: f"int{element.bits}"
    for element in BY_CODE.values()
    if element.dtype is not None and not is_plain(element.dtype)
}


def as_array(tensor: object, where: str) -> tuple[Array, Restore]:
    """Return a tensor as a NumPy array in C order and little-endian, and what makes its like of such an array.

    Args:
        tensor: an array, a torch tensor, or anything with ``__array__`` or ``__dlpack__``.
        where: its name, for errors.

    Returns:
        The array, which shares memory with the tensor where it can, and the way back.

    Raises:
        TypeError: it is none of them, or one without elements that NumPy can read: sparse, on the device meta.
    """
    torch = sys.modules.get("torch")  # who has a torch tensor has imported it
    with _about(tensor, where):
        if torch is not None and isinstance(tensor, torch.Tensor):
            return _plain(_of_torch(tensor, torch)), lambda x: _to_torch(x, tensor, torch)
        if hasattr(tensor, "__array__"):
            return _plain(np.asarray(tensor)), _same
        if hasattr(tensor, "__dlpack__"):
            return _plain(np.from_dlpack(tensor)), _same
    raise TypeError(f"{where}: wanted an array, or what has __array__ or __dlpack__, got {type(tensor).__name__}")


@contextmanager
def _about(tensor: Any, where: str) -> Iterator[None]:
    """Say which tensor it is, and of what kind, whose own library cannot make an array of it."""
    try:
        yield
    except (BufferError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        kind = [str(getattr(tensor, name)) for name in ("dtype", "layout", "device") if hasattr(tensor, name)]
        told = f"{type(tensor).__name__} ({', '.join(kind)})" if kind else type(tensor).__name__
        raise TypeError(f"{where}: {told} cannot be sent, wanted elements that NumPy can read: {error}") from error


def _plain(array: Array) -> Array:
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(array.shape)


def _same(x: Array) -> Array:
    return x


def _of_torch(tensor: Any, torch: Any) -> Array:
    """Return a torch tensor's elements; those of types that NumPy itself has no name for by their bits."""
    if tensor.layout is not torch.strided:  # some of these would be made dense on the way, as large as they are
        raise TypeError("it is not strided; to_dense() makes it so")
    host = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    bits = {getattr(torch, name, None): bits for name, bits in _BITS.items()}.get(host.dtype)
    if bits:
        found: Array = host.view(getattr(torch, bits)).numpy()
        return found.view(str(host.dtype).removeprefix("torch."))
    found = host.numpy()
    return found


def _to_torch(x: Array, like: Any, torch: Any) -> Any:
    """Return a torch tensor on the device of another, which shares memory with ``x`` where it can."""
    if bits := _BITS.get(x.dtype.name):
        return torch.from_numpy(x.view(bits)).view(getattr(torch, x.dtype.name)).to(like.device)
    return torch.from_numpy(x).to(like.device)
