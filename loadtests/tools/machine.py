"""What the numbers depend on: the machine, the versions, and how busy it was."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from normtree.processes import usable

PACKAGES = ("normtree", "numpy", "numba", "llvmlite", "ray", "uvicorn")


def describe(warm_up: str, note: str = "") -> dict[str, object]:
    """Describe this machine now.

    Args:
        warm_up: what ran before the first number was taken, in words.
        note: what else a reader should know, such as that others used the machine meanwhile.
    """
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": processor(),
        "processor_model": ", ".join(f"{name} {cpuinfo(name)}" for name in ("cpu family", "model", "stepping")),
        "cores": usable.cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release().partition("-")[0],
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "load_average": [float(part) for part in Path("/proc/loadavg").read_text().split()[:3]],
        "warm_up": warm_up,
        **({"note": note} if note else {}),
    }


def processor() -> str:
    """Name the processor as the kernel does."""
    return cpuinfo("model name") or platform.processor() or platform.machine()


def cpuinfo(name: str) -> str:
    """What the kernel says of the first processor; empty where it does not."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""
