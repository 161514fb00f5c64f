"""Machine code on disk, shared by processes that compile and load it at the same time.

Numba keeps an index and numbered data files for each kernel. It writes the index first, and locks nothing: a process
that reads between the two, or after one that was killed there, takes the machine code of another signature or of older
sources for its own, and crashes or computes nonsense (numba#4807). Here the data is written before the index that
names it, and both under a lock.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

from numba.core.caching import IndexDataCacheFile

_LOCK_NAME = "normtree.lock"


class CodeCacheFile(IndexDataCacheFile):
    """One kernel's index and data files.

    Args:
        cache_path: folder of the files.
        filename_base: what their names begin with.
        source_stamp: what the sources are known by; machine code of others is not loaded.
    """

    def load(self, key: Any) -> Any:
        """Return the machine code of a signature, or None."""
        with self._locked(fcntl.LOCK_SH):
            return super().load(key)

    def save(self, key: Any, data: Any) -> None:
        """Keep the machine code of a signature."""
        with self._locked(fcntl.LOCK_EX):
            overloads = self._load_index()
            names = set(overloads.values())
            name = overloads.get(key) or next(n for n in map(self._data_name, count(1)) if n not in names)
            self._save_data(name, data)
            self._save_index({**overloads, key: name})

    @contextmanager
    def _locked(self, operation: int) -> Iterator[None]:
        """Hold the folder's lock; none where nothing can be written, for then nobody writes."""
        try:
            descriptor = os.open(os.path.join(self._cache_path, _LOCK_NAME), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        except OSError:
            yield
            return
        try:
            fcntl.flock(descriptor, operation)
            yield
        finally:
            os.close(descriptor)
