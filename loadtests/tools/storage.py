"""How fast this machine's storage reads and writes, past the page cache."""

import os
from pathlib import Path
from statistics import median
from time import perf_counter

BLOCK_BYTES = 1 << 24


def measure(folder: Path, nbytes: int, rounds: int = 3) -> tuple[float, float]:
    """Write a file and sync it, forget its pages, read it back; medians of the rounds, in GB/s.

    Args:
        folder: on the storage that is measured.
        nbytes: of the file.
        rounds: how often.

    Returns:
        Read and write.
    """
    path, block = folder / f"storage-{os.getpid()}", os.urandom(BLOCK_BYTES)
    reads, writes = [], []
    try:
        for _ in range(rounds):
            start = perf_counter()
            with path.open("wb", buffering=0) as file:
                for _ in range(nbytes // BLOCK_BYTES):
                    file.write(block)
                os.fsync(file.fileno())
            writes.append(nbytes / (perf_counter() - start) / 1e9)
            with path.open("rb", buffering=0) as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                start = perf_counter()
                while file.read(BLOCK_BYTES):
                    pass
                reads.append(nbytes / (perf_counter() - start) / 1e9)
    finally:
        path.unlink(missing_ok=True)
    return median(reads), median(writes)
