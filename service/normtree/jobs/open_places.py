"""From a place in a recipe to what reads and writes it."""

from pathlib import Path

from normtree.errors import InvalidRecipe, JobConflict
from normtree.jobs.local import LocalFolder
from normtree.jobs.places import Folder, Target, is_url, split_place
from normtree.jobs.state import SUFFIX, LocalState, State


def open_source(place: str) -> tuple[Folder, str | None]:
    """Return the folder of an input and, where it is one file, its name."""
    folder, only = split_place(place)
    if is_url(place):
        from normtree.jobs.remote import RemoteFolder

        return RemoteFolder(folder), only
    return LocalFolder(str(Path(folder).absolute())), only


def open_target(place: str, only: str | None) -> Target:
    """Return where an output goes.

    Args:
        place: a folder or a file.
        only: the input's name, where it is one file.

    Raises:
        InvalidRecipe: a file for a whole folder.
    """
    folder, name = split_place(place)
    if name and not only:
        raise InvalidRecipe(f"output: the input is a folder, so the output must be one too, got {place!r}")
    if is_url(place):
        from normtree.jobs.remote import RemoteFolder

        return RemoteFolder(folder, name)
    return LocalFolder(str(Path(folder).absolute()), name)


def open_state(place: str) -> State:
    """Return the folder beside an output where its job keeps its journal and its report."""
    if is_url(place):
        from normtree.jobs.remote import RemoteState

        return RemoteState(place.rstrip("/") + SUFFIX)
    folder, name = split_place(place)
    path = Path(folder).absolute()
    return LocalState(str(path / name if name else path) + SUFFIX)


def check_empty(place: str, target: Target) -> None:
    """Refuse an output that is there already, and not a job's.

    Raises:
        JobConflict: it is.
    """
    folder, name = split_place(place)
    if not is_url(place) and not Path(folder).exists():
        return
    there = [found for found in target.names() if name in (None, found)]
    if there:
        raise JobConflict(f"{place}: {there[0]} is there already; write to another output, or remove it")
