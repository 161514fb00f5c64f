"""Where machine profiles are kept: in the user's cache, a file for each machine, workers and set of engines."""

import hashlib
import os
from collections.abc import Collection
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from normtree.engine.machine import Machine
from normtree.engine.profile import Engine, MachineProfile


def profile_path(machine: Machine, workers: int, engines: Collection[Engine]) -> Path:
    """Path of the profile of a machine, under ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    root = os.environ.get("XDG_CACHE_HOME")
    folder = Path(root) if root else Path.home() / ".cache"
    key = repr((sorted(asdict(machine).items(), key=lambda item: item[0]), workers, sorted(engines)))
    return folder / "normtree" / f"profile-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"


def load_profile(path: Path) -> MachineProfile | None:
    """Read a profile; None where there is none, or one that cannot be read."""
    with suppress(OSError, ValueError):
        return MachineProfile.from_json(path.read_bytes())
    return None


def save_profile(path: Path, profile: MachineProfile) -> None:
    """Write a profile, whole or not at all; nothing where the folder cannot be written."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_bytes(profile.to_json())
        partial.replace(path)
