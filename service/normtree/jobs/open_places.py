"""From the places in a recipe to what reads and writes there: resolved once, checked, and opened through no link.

All ways to a job come through `open_places`. The output may not lie in the input, nor the input in the output or in
the folder of its state: a job never touches its input, and would find what it writes in it when it is run again.
"""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from normtree.errors import InvalidRecipe, JobConflict, StorageFailed
from normtree.jobs.recipe import Recipe
from normtree.jobs.storage.listing import Listing, list_file, list_folder
from normtree.jobs.storage.local import LocalFolder
from normtree.jobs.storage.places import Folder, Target, is_url, path_of, split_place
from normtree.jobs.storage.state import LOCK, SUFFIX, LocalState, State, nobody_writes

FOLDER = ".normtree-jobs"  # of the first root; the service's own notes, which no job reads or writes
_PLAIN = (errno.ELOOP, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EINVAL)  # whoever wrote the path is to mend it


@dataclass(frozen=True)
class Places:
    """Where a job reads and writes.

    Args:
        recipe: with its places as they really are.
        source: the input's folder.
        only: the name of the input in it, where that is one file.
        target: where the output goes.
        state: where the job keeps its journal and its report.
        busy: states of jobs that would be in this one's way, were they running.
    """

    recipe: Recipe
    source: Folder
    only: str | None
    target: Target
    state: State
    busy: tuple[str, ...] = ()

    def check_empty(self) -> None:
        """Refuse an output that is there already.

        Raises:
            JobConflict: it is.
        """
        _, name = split_place(self.recipe.output)
        if found := self.target.taken(name):
            raise JobConflict(f"{self.recipe.output}: {found} is there already; write to another output, or remove it")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other jobs out of the output, and of the input, while the context lasts.

        Raises:
            JobConflict: another job is at work on the output, a part of it, what it is a part of, or the input.
        """
        with nobody_writes(self.busy):
            pass  # nothing is made in another job's output; held for good below, when nobody can come in between
        with self.state.lock():
            inside = [] if is_url(self.recipe.output) or split_place(self.recipe.output)[1] else _states_in(self.target)
            with nobody_writes([*self.busy, *inside]):
                yield


def open_places(recipe: Recipe, roots: Sequence[Path] = (), most: int | None = None) -> Places:
    """Resolve and check the places of a recipe; nothing is made, and no file opened.

    Args:
        recipe: of places anywhere; relative ones are so to the first root, without one to the working folder.
        roots: folders that no place, and no link in the input, may lead out of; none: anywhere.
        most: look at no more entries of the input than that, and let it be missing: the job runs later.

    Raises:
        InvalidRecipe: a place that is none, is outside of the roots, or overlaps the other.
        InvalidCheckpoint, StorageFailed: as `list_folder`.
    """
    real_roots = [os.path.realpath(root) for root in roots]
    source, only, found = _open_source(recipe.input, real_roots, most)
    target, state = _open_output(recipe.output, only, real_roots, found)
    if not is_url(recipe.input) and not is_url(recipe.output):
        _check_apart(recipe, [_named(source.url, only), *found.linked], state.url)
    elif is_url(recipe.input) and is_url(recipe.output):
        from normtree.jobs.storage.remote import overlap

        for place in (recipe.output, state.url):
            if overlap(recipe.input, place):
                raise _overlapping(recipe)
    real = {"input": _named(source.url, only), "output": state.url.removesuffix(SUFFIX)}
    busy = () if is_url(recipe.input) else _states_of(real["input"], found)
    busy += () if is_url(recipe.output) else tuple(_above(real["output"]))
    return Places(recipe.model_copy(update=real), source, only, target, state, tuple(dict.fromkeys(busy)))


def open_state(place: str) -> State:
    """Return the folder beside an output, given as it really is, where its job keeps its journal and its report."""
    if is_url(place):
        from normtree.jobs.storage.remote import RemoteState

        return RemoteState(place.rstrip("/") + SUFFIX)
    return LocalState(os.path.join(os.getcwd(), path_of(place).rstrip("/")) + SUFFIX)


def open_source(place: str) -> tuple[Folder, str | None]:
    """Return the folder of an input and, where it is one file, its name.

    Raises:
        InvalidRecipe, InvalidCheckpoint, StorageFailed: as `open_places`.
    """
    return _open_source(place, [], None)[:2]


def open_target(place: str, only: str | None) -> Target:
    """Return where an output goes.

    Args:
        place: a folder or a file.
        only: the input's name, where it is one file.

    Raises:
        InvalidRecipe: a file for a whole folder, or no path.
    """
    return _open_output(place, only, [], Listing())[0]


def _open_source(place: str, roots: Sequence[str], most: int | None) -> tuple[Folder, str | None, Listing]:
    folder, only = split_place(place)
    if is_url(place):
        if roots:
            raise InvalidRecipe("input: wanted a path inside the service's folders, got a URL", pointer="input")
        from normtree.jobs.storage.remote import RemoteFolder

        return RemoteFolder(folder), only, Listing()
    path = _real("input", folder, roots)
    _check_inside("input", place, _named(path, only), roots)

    def check(link: str, real: str) -> None:
        if roots and not _is_in(real, roots):
            raise InvalidRecipe(f"input: {link} is a link that leads out of the service's folders", pointer="input")

    if most is not None and not os.path.lexists(_named(path, only)):
        found = Listing()  # a job that runs before may make it
    else:
        found = list_file(path, only, check) if only else list_folder(path, check, most)
    return LocalFolder(path, listed=found.files), only, found


def _open_output(place: str, only: str | None, roots: Sequence[str], found: Listing) -> tuple[Target, State]:
    folder, name = split_place(place)
    if name and not only:
        raise InvalidRecipe(
            f"output: the input is a folder, so the output must be one too, got {place!r}", pointer="output"
        )
    if is_url(place):
        if roots:
            raise InvalidRecipe("output: wanted a path inside the service's folders, got a URL", pointer="output")
        from normtree.jobs.storage.remote import RemoteFolder, RemoteState

        return RemoteFolder(folder, name), RemoteState(place.rstrip("/") + SUFFIX)
    path = _real("output", folder, roots)
    state = _named(path, name) + SUFFIX
    _check_inside("output", place, _named(path, name), roots)
    with _refused("output", place), suppress(FileNotFoundError):
        if stat.S_ISLNK(os.lstat(state).st_mode):
            raise OSError(errno.ELOOP, f"{os.path.basename(state)} beside it is a link, which is not followed")
    target = LocalFolder(path, name, folder_modes=found.folder_modes)
    return target, LocalState(state, mode=found.private_mode)


def _real(name: str, place: str, roots: Sequence[str]) -> str:
    """Return the absolute path of a place without links, `..` and what else leads elsewhere, there or not.

    Raises:
        InvalidRecipe: it is none.
        StorageFailed: it cannot be looked at.
    """
    with _refused(name, place):
        path = os.path.join(roots[0] if roots else os.getcwd(), path_of(place))
        path.encode()
        with suppress(FileNotFoundError):
            real = os.path.realpath(path, strict=True)
            real.encode()
            return real
        real = os.path.realpath(path)
        real.encode()
        for part in (real, *map(str, Path(real).parents)):
            if os.path.islink(part):  # what cannot be resolved: a circle, as the system will say
                os.stat(part)
        return real


@contextmanager
def _refused(name: str, place: str) -> Iterator[None]:
    """Turn what the system says of a path into our words."""
    try:
        yield
    except ValueError:  # NUL, or half a surrogate
        raise InvalidRecipe(f"{name}: wanted a path of UTF-8 without NUL, got {place!r}", pointer=name) from None
    except OSError as error:
        if error.errno in _PLAIN:
            raise InvalidRecipe(f"{name}: {place!r}: {error.strerror}", pointer=name) from None
        raise StorageFailed(f"{name}: {place}: {error.strerror}") from error


def _named(folder: str, name: str | None) -> str:
    return f"{folder.rstrip('/')}/{name}" if name else folder


def _check_inside(name: str, place: str, path: str, roots: Sequence[str]) -> None:
    if roots and (path in roots or not _is_in(path, roots)):
        raise InvalidRecipe(f"{name}: wanted a path inside the service's folders, got {place!r}", pointer=name)


def _is_in(path: str, roots: Sequence[str]) -> bool:
    return FOLDER not in Path(path).parts and any(Path(path).is_relative_to(root) for root in roots)


def _check_apart(recipe: Recipe, inputs: Sequence[str], state: str) -> None:
    """Compare folders as the system knows them: one may have several paths, and a path no folder yet.

    Raises:
        InvalidRecipe: the output or its state is the input, in it, or around it.
    """
    ours = (state.removesuffix(SUFFIX), state)
    ours_and_above = {found for path in ours for found in _chain(path)}
    around = {found for path in ours if (found := _identity(path))}
    for path in inputs:
        if _identity(path) in ours_and_above or (around and not around.isdisjoint(_chain(path))):
            raise _overlapping(recipe)


def _overlapping(recipe: Recipe) -> InvalidRecipe:
    return InvalidRecipe(
        f"output: wanted a place apart from the input, which is never touched, got {recipe.output!r} for the input "
        f"{recipe.input!r}: one of them is the other, or lies in it",
        pointer="output",
    )


def _chain(path: str) -> Iterator[tuple[int, int]]:
    """Tell which folders a path names and lies in, of those that are there."""
    for part in (path, *map(str, Path(path).parents)):
        if found := _identity(part):
            yield found


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _above(path: str) -> list[str]:
    """Name the states of jobs whose output would have a path in it."""
    return [str(parent) + SUFFIX for parent in Path(path).parents if parent.name]


def _states_of(path: str, found: Listing) -> tuple[str, ...]:
    """Name the states of jobs that would write to an input."""
    places = [path, *found.linked]
    around = [state for place in places for state in (place + SUFFIX, *_above(place))]
    return (*around, *(os.path.dirname(real) for name, real in found.files.items() if _is_lock(name)))


def _states_in(target: Target) -> list[str]:
    """Name the states of jobs whose output lies in a folder."""
    if target.taken(None) is None:
        return []
    return [os.path.dirname(f"{target.url}/{name}") for name in target.names() if _is_lock(name)]


def _is_lock(name: str) -> bool:
    return name.endswith(f"{SUFFIX}/{LOCK}")
