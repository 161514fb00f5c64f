"""The folders that jobs of strangers may read and write: no path leads out of them, by dots or by symbolic links."""

import os
from collections.abc import Sequence
from pathlib import Path

from normtree.errors import InvalidRecipe
from normtree.jobs.places import is_url, split_place
from normtree.jobs.recipe import Recipe
from normtree.jobs.state import SUFFIX

FOLDER = ".normtree-jobs"  # of the first root; the service's own notes, which no job reads or writes


def within(recipe: Recipe, roots: Sequence[Path]) -> Recipe:
    """Return a recipe whose places are absolute and inside the roots; relative ones are so to the first root.

    Raises:
        InvalidRecipe: a place, or a file of the input, that is not inside; or a URL.
    """
    if not roots:
        raise InvalidRecipe(
            "input: this service runs no jobs: it has no folders for them (jobs_roots)", pointer="input"
        )
    real = [root.resolve() for root in roots]
    places = {name: _inside(name, getattr(recipe, name), real) for name in ("input", "output")}
    _inside("output", places["output"] + SUFFIX, real)
    folder, only = split_place(places["input"])
    files = [Path(folder) / only] if only else [Path(at) / name for at, _, names in os.walk(folder) for name in names]
    for file in files:
        if not _is_in(file.resolve(), real):
            raise InvalidRecipe(f"input: {file} is a link that leads out of the service's folders", pointer="input")
    return recipe.model_copy(update=places)


def _inside(name: str, place: str, roots: Sequence[Path]) -> str:
    if is_url(place):
        raise InvalidRecipe(f"{name}: wanted a path inside the service's folders, got a URL", pointer=name)
    path = (roots[0] / place.removeprefix("file://")).resolve()
    if not _is_in(path, roots) or path in roots or FOLDER in path.parts:
        raise InvalidRecipe(f"{name}: wanted a path inside the service's folders, got {place!r}", pointer=name)
    return str(path)


def _is_in(path: Path, roots: Sequence[Path]) -> bool:
    return any(path.is_relative_to(root) for root in roots)
