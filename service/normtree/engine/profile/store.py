"""Where machine profiles are kept: in the user's cache, a file for each machine, workers and set of engines."""

import hashlib
import os
from collections.abc import Collection
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from normtree.engine.profile.machine import Machine
from normtree.engine.profile.machine_profile import Engine, MachineProfile
from normtree.files.enclosure import Enclosure
from normtree.files.seal import seal, unseal

_LIMIT_BYTES = 1 << 20  # a hundred times what there is


def profile_path(machine: Machine, workers: int, engines: Collection[Engine]) -> Path:
    """Path of the profile of a machine, under ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    key = repr((sorted(asdict(machine).items(), key=lambda item: item[0]), workers, sorted(engines)))
    return Path(root) / "normtree" / f"profile-{hashlib.sha256(key.encode()).hexdigest()[:16]}.sealed"


def load_profile(machine: Machine, workers: int, engines: Collection[Engine]) -> MachineProfile | None:
    """Read a profile; None where there is none, or none of this machine that is whole and makes sense."""
    path = profile_path(machine, workers, engines)
    with suppress(OSError, ValueError):
        sealed = _folder(path).read(path.name, _LIMIT_BYTES)
        text = unseal(sealed, path.name.encode()) if sealed else None
        profile = MachineProfile.from_json(text) if text else None
        if profile and (profile.machine, profile.workers, set(profile.engines)) == (machine, workers, set(engines)):
            return profile
    return None


def save_profile(profile: MachineProfile) -> None:
    """Write a profile, whole or not at all; nothing where the folder cannot be written."""
    path = profile_path(profile.machine, profile.workers, profile.engines.keys())
    with suppress(OSError):
        _folder(path).write(path.name, seal(profile.to_json(), path.name.encode()))


def _folder(path: Path) -> Enclosure:
    """The folder of a profile; links of the user's own on the way to it are followed once, here.

    Raises:
        OSError: nobody knows where it is, since there is no home.
    """
    if not path.is_absolute():
        raise FileNotFoundError(path)
    return Enclosure(os.path.realpath(path.parent))
