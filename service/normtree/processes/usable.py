"""What of this machine the process may use: cores and memory, whoever bounds them."""

import os
from pathlib import Path

from normtree.processes.cgroups import cpu_quota, memory_left_bytes, memory_limit_bytes

_ROOT = Path("/")


def cores(root: Path = _ROOT) -> int:
    """Count the cores: those that the process may run on, and no more than a quota of time keeps busy; 1 at least.

    Of a quota of two and a half it is two: a third thread would hold up all of them for a part of each period.

    Args:
        root: where ``proc`` and the control groups' folders are.
    """
    has_affinity = hasattr(os, "sched_getaffinity")  # the set of cores of a group is in it
    here = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return max(1, int(min(here, cpu_quota(root))))


def memory_bytes(root: Path = _ROOT) -> int:
    """Return how much memory there is, or that a group grants."""
    return int(min(_told(root, "MemTotal"), memory_limit_bytes(root)))


def free_memory_bytes(root: Path = _ROOT) -> int:
    """Return how much of it nobody uses, caches of files not counted."""
    return int(min(_told(root, "MemAvailable"), memory_left_bytes(root)))


def _told(root: Path, name: str) -> int:
    """Read a line of what the kernel tells of memory; all pages where it tells nothing."""
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
    except OSError:
        lines = []
    found = next((line.split()[1] for line in lines if line.startswith(f"{name}:")), None)
    return 1024 * int(found) if found else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
