"""Keeping memory that was freed, so that a body's passing pieces do not each cost fresh pages.

A body comes in pieces of a quarter of a MiB, each a buffer that lives for a moment. By default glibc gives such buffers
back to the kernel as soon as they are freed, and the next ones are fresh pages: two thirds of the time that a large
body took to come in.
"""

import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # glibc's malloc.h
_PIECE_LIMIT_BYTES = 2**24
_KEPT_BYTES = 2**26


def keep_freed_memory() -> bool:
    """Have this process's allocator keep up to 64 MiB that are free, and use it for pieces up to 16 MiB.

    Returns:
        Whether the allocator can be told: glibc's, no other.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    wanted = {_MMAP_THRESHOLD: _PIECE_LIMIT_BYTES, _TRIM_THRESHOLD: _KEPT_BYTES, _TOP_PAD: _PIECE_LIMIT_BYTES}
    return all(mallopt(name, value) == 1 for name, value in wanted.items())
