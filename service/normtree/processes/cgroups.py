"""Control groups: what share of a machine a container, or a service manager, grants a process. Versions 1 and 2.

A group grants no more than those above it, so each number is the least of the process's own group and of all of its
parents that can be seen; a container sees those from its own group down.
"""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_UNLIMITED = 1 << 60  # version 1 writes the largest number of pages where there is no bound


@dataclass(frozen=True)
class _Mount:
    """A hierarchy of groups where it is mounted.

    Args:
        version: 1 or 2.
        controllers: those of version 1 that it has.
        top: the group that is seen at the mount's place.
        place: where it is mounted.
    """

    version: int
    controllers: frozenset[str]
    top: PurePosixPath
    place: Path


def cpu_quota(root: Path = Path("/")) -> float:
    """Return how many processors' time the process may take; infinite where nobody bounds it.

    Args:
        root: where ``proc`` is, and what mounted folders' paths begin with.
    """
    return min(_least(root, "cpu", {1: _cpu_quota_of_1, 2: _cpu_quota_of_2}), default=math.inf)


def memory_limit_bytes(root: Path = Path("/")) -> float:
    """Return how much memory the process and its neighbours in the group may take; infinite where nobody bounds it."""
    return min(_least(root, "memory", {1: _limit_of_1, 2: _limit_of_2}), default=math.inf)


def memory_left_bytes(root: Path = Path("/")) -> float:
    """Return how much of that nobody in the group has taken yet, but for what the kernel caches of files."""
    return min(_least(root, "memory", {1: _left_of_1, 2: _left_of_2}), default=math.inf)


def _least(root: Path, controller: str, ways: dict[int, Callable[[Path], float]]) -> Iterator[float]:
    """Go through what the process's groups and their parents say."""
    groups = dict(_groups(root))
    for mount in _mounts(root):
        name = controller if mount.version == 1 else ""
        if name in groups and (mount.version != 1 or controller in mount.controllers):
            for folder in _chain(mount, groups[name]):
                yield ways[mount.version](folder)


def _groups(root: Path) -> Iterator[tuple[str, PurePosixPath]]:
    """Go through the process's groups: each controller of version 1, or none for version 2, and the group's path."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            yield controller, PurePosixPath(path)


def _mounts(root: Path) -> Iterator[_Mount]:
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            _, _, _, top, place, *_ = map(_plain, before.split(" "))
            controllers = frozenset(options.split(","))
            yield _Mount(2 if kind == "cgroup2" else 1, controllers, PurePosixPath(top), root / place.lstrip("/"))


def _chain(mount: _Mount, group: PurePosixPath) -> Iterator[Path]:
    """Go through the folders of a group and of its parents, as far as they are seen."""
    below = group.relative_to(mount.top) if group.is_relative_to(mount.top) else PurePosixPath()
    if ".." in below.parts:  # the process has been moved out of what it sees
        below = PurePosixPath()
    yield from (mount.place / part for part in (below, *below.parents))


def _cpu_quota_of_1(folder: Path) -> float:
    quota, period = (_number(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    return quota / period if 0 < quota < math.inf and 0 < period < math.inf else math.inf


def _cpu_quota_of_2(folder: Path) -> float:
    quota, _, period = "".join(_lines(folder / "cpu.max")).partition(" ")
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() and int(period) else math.inf


def _limit_of_1(folder: Path) -> float:
    found = _number(folder / "memory.limit_in_bytes")
    return found if found < _UNLIMITED else math.inf


def _limit_of_2(folder: Path) -> float:
    """Beyond ``high`` a group is not killed but slowed down: that bounds it as well."""
    return min(_number(folder / f"memory.{name}") for name in ("max", "high"))


def _left_of_1(folder: Path) -> float:
    return _left(folder, _limit_of_1(folder), "memory.usage_in_bytes", "total_")


def _left_of_2(folder: Path) -> float:
    return _left(folder, _limit_of_2(folder), "memory.current", "")


def _left(folder: Path, limit: float, usage: str, prefix: str) -> float:
    used = _number(folder / usage)
    if math.inf in (limit, used):
        return limit
    stat = dict(line.split(" ", 1) for line in _lines(folder / "memory.stat") if " " in line)
    cached = sum(int(stat.get(f"{prefix}{kind}_file", "0")) for kind in ("inactive", "active"))
    return max(0.0, limit - used + cached)


def _number(path: Path) -> float:
    """Read a number; infinite where there is none: ``max``, or no such file, as at the top of all groups."""
    text = "".join(_lines(path)).strip()
    return float(text) if re.fullmatch(r"-?\d+", text) else math.inf


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return []


def _plain(text: str) -> str:
    """Undo how ``mountinfo`` writes blanks and the like."""
    return re.sub(r"\\(\d{3})", lambda found: chr(int(found[1], 8)), text)
