"""The folders that jobs of strangers may read and write: no path leads out of them, by dots or by symbolic links."""

from collections.abc import Sequence
from pathlib import Path

from normtree.errors import InvalidRecipe
from normtree.jobs.open_places import FOLDER, open_places
from normtree.jobs.recipe import Recipe

__all__ = ["FOLDER", "within"]

_LOOKED_AT = 10_000  # entries of an input before a job is taken; it looks at all itself


def within(recipe: Recipe, roots: Sequence[Path]) -> Recipe:
    """Return a recipe whose places are real paths inside the roots; relative ones are so to the first root.

    What is checked here is checked again by the job, when it runs: paths may lead elsewhere by then.

    Raises:
        InvalidRecipe: a place, or a link in the input, that is not inside; a URL; places that overlap.
        InvalidCheckpoint: a file of the input that no job reads.
    """
    if not roots:
        raise InvalidRecipe(
            "input: this service runs no jobs: it has no folders for them (jobs_roots)", pointer="input"
        )
    return open_places(recipe, roots, _LOOKED_AT).recipe
