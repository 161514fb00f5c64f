"""What the numbers depend on: the machine, the versions, and how busy it was."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("normtree", "numpy", "numba", "llvmlite", "ray", "uvicorn")


def describe(warm_up: str) -> dict[str, object]:
    """Describe this machine now.

    Args:
        warm_up: what ran before the first number was taken, in words.
    """
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release().partition("-")[0],
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "load_average": [float(part) for part in Path("/proc/loadavg").read_text().split()[:3]],
        "warm_up": warm_up,
    }


def processor() -> str:
    """Name the processor as the kernel does."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
