"""A tensor at its home: where its bytes are on this node, and how to see them as an array."""

import errno
import mmap
import os
from dataclasses import dataclass, field
from math import prod
from threading import Lock
from typing import Any, Literal

import ml_dtypes  # noqa: F401 - makes "bfloat16" a name that NumPy knows
import numpy as np
from numpy.typing import NDArray

from normtree.errors import RegionRefused

_LINE_BYTES = 64


@dataclass(frozen=True)
class Tensor:
    """A tensor in a shared-memory segment: a small value that travels in place of its data.

    Args:
        segment: name of the segment, as `normtree.engine.memory.arena.Segment.name`.
        shape: lengths of the axes.
        dtype: the element type by name or NumPy's text: ``"float32"``, ``"<f4"``, ``"bfloat16"``.
        order: ``"C"`` or ``"F"``: which axis varies fastest in memory, the last or the first.
        offset: bytes of the segment before the first element; kernels are fastest where it is a multiple of 64.
        memory: what holds the tensor instead of a segment, where it need not be seen outside of this process; such a
            tensor cannot travel.
    """

    segment: str
    shape: tuple[int, ...]
    dtype: str
    order: Literal["C", "F"] = "C"
    offset: int = 0
    memory: memoryview | None = field(default=None, compare=False, repr=False)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor's elements."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize

    def array(self, *, writable: bool = False) -> NDArray[Any]:
        """View the tensor where it is, without a copy, in any process of its node.

        Args:
            writable: whether the view may be written to.

        Raises:
            FileNotFoundError: the segment is gone, or is on another node.
            RegionRefused: the segment ends before the tensor does: ours never do, a client's may have been cut short.
        """
        memory = attach(self.segment) if self.memory is None else self.memory
        try:
            array: NDArray[Any] = np.ndarray(self.shape, self.dtype, memory, self.offset, order=self.order)
        except TypeError:
            detail = f"shared memory: from byte {self.offset} it is too short for {self.shape} {self.dtype}"
            raise RegionRefused(detail, pointer="byte_size", limit=len(memory)) from None
        array.flags.writeable = writable
        return array


def aligned(shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """Return an array of memory of this process, C order, that begins where kernels are fastest; not filled."""
    nbytes = prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(nbytes + _LINE_BYTES, np.uint8)
    start = -memory.ctypes.data % _LINE_BYTES
    return memory[start : start + nbytes].view(dtype).reshape(shape)


OWN = "own:"  # what the names of segments begin with that are memory of this process, and of no other


class _Attachments:
    """The segments that this process has mapped."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._maps: dict[str, mmap.mmap] = {}

    def get(self, segment: str, flags: int) -> mmap.mmap:
        """Return the map of a segment, made now if need be."""
        found = self._maps.get(segment)
        if found is not None:
            return found
        descriptor = os.open(segment, os.O_RDWR | os.O_CLOEXEC)
        try:
            made = mmap.mmap(descriptor, 0, flags=flags)
        except OSError as error:
            if error.errno == errno.ENOMEM:
                raise MemoryError(f"no memory to map {segment}") from error
            raise
        finally:
            os.close(descriptor)
        with self._lock:
            # Names are never used again. What has been unlinked is let go, as soon as no array is a view of it.
            self._maps = {
                name: kept for name, kept in self._maps.items() if name.startswith(OWN) or os.path.exists(name)
            }
            return self._maps.setdefault(segment, made)

    def keep(self, segment: str, memory: mmap.mmap) -> None:
        """Let a name stand for memory of this process."""
        with self._lock:
            self._maps[segment] = memory

    def let_go(self, segment: str) -> None:
        """Let a name stand for nothing any more."""
        with self._lock:
            self._maps.pop(segment, None)


_attachments = _Attachments()
keep = _attachments.keep
let_go = _attachments.let_go


def attach(segment: str, *, populate: bool = False) -> mmap.mmap:
    """Map a segment into this process; mapped once and kept for as long as it exists.

    Args:
        segment: name of the segment.
        populate: whether to have its pages mapped now, all at once, rather than each when it is first used.

    Raises:
        FileNotFoundError: there is no such segment on this node.
        MemoryError: this process may map no more memory.
    """
    return _attachments.get(segment, mmap.MAP_SHARED | (mmap.MAP_POPULATE if populate else 0))
