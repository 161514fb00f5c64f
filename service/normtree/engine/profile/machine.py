"""Which machine this is, and with what it computes: what a machine profile holds for."""

import hashlib
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from normtree.extras import version_of
from normtree.processes import usable

_LIBRARIES = ("normtree", "numpy", "numba", "llvmlite", "ray")
_PACKAGES = ("normtree_kernels", "normtree.engine")


@dataclass(frozen=True)
class Machine:
    """A machine as a profile sees it: where any of this differs, another profile holds.

    Args:
        processor: its name.
        cores: that this process may use.
        kernel: release of the operating system's kernel.
        versions: of Python and of what computes.
        sources: digest of the kernels' and the engine's sources.
    """

    processor: str
    cores: int
    kernel: str
    versions: Mapping[str, str]
    sources: str


def this_machine() -> Machine:
    """Describe this one."""
    return Machine(
        processor=_processor(),
        cores=usable.cores(),
        kernel=platform.release(),
        versions={"python": platform.python_version(), **_versions()},
        sources=_sources_digest(),
    )


def _versions() -> dict[str, str]:
    return {name: found for name in _LIBRARIES if (found := version_of(name))}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


@cache
def _sources_digest() -> str:
    digest = hashlib.sha256()
    for package in _PACKAGES:
        spec = find_spec(package)
        for folder in spec.submodule_search_locations or () if spec else ():
            for source in sorted(Path(folder).rglob("*.py")):
                digest.update(source.read_bytes())
    return digest.hexdigest()[:16]
