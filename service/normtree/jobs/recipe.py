"""Recipes: which tensors of a checkpoint are projected, and how. TOML, checked whole before anything is done."""

import hashlib
import re
import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from normtree.errors import InvalidRecipe
from normtree.fitting import fits
from normtree.formats.elements import dtype_of
from normtree.formats.stored import Stored
from normtree.jobs.recipe_errors import mistaken
from normtree.splits import parse_split
from normtree.text.patterns import compile_pattern
from normtree_kernels.norms.mixed_norm import MAX_LEVELS, NORMS, Level, MixedNorm
from normtree_kernels.refusals import ValueRefused
from normtree_kernels.tree.exact import needs_own_algorithm
from normtree_kernels.tree.goal import Aim, Goal, Share

GOALS = ("radius", "sparsity", "groups", "relative_radius")
_REMOTE = re.compile(r"[a-z][a-z0-9+.-]*://")
_PATH_BYTES, _NAME_BYTES = 4095, 255  # Linux's own bounds, but for the journal's folder and the hidden files beside
_BESIDE_BYTES = 16
_CONTROL = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")

# tomllib keeps each beginning of a key: what a few thousand dots would take is memory by their square.
_KEY_PARTS = 32
_PART = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')"""
_LONG_KEY = rf"(?:{_PART}[ \t]*\.[ \t]*){{{_KEY_PARTS},}}"

Number = Annotated[float, Field(strict=True)]
Ratio = Annotated[float, Field(strict=True, ge=0, le=1)]


class Rule(BaseModel):
    """One ``[[rules]]`` table: the tensors it claims, their mixed norm, and what the projection is to reach.

    Raises:
        pydantic.ValidationError: a key that is unknown or of another type, or keys that do not go together.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    tensors: str = Field(description="Regular expression (RE2) that a tensor's whole name must match.")
    exclude: str | None = Field(default=None, description="And one that it must not; default: none is left out.")
    norm: str = Field(default="l1,linf", description=f"Norms of the levels, outer to inner, of {', '.join(NORMS)}.")
    axes: str | None = Field(default=None, description="Axes of the levels, such as '1,0'; default: axis 0 outermost.")
    split: str | None = Field(
        default=None, description="Axes seen as several before axes are counted: '0:12' sees axis 0 as 12 × the rest."
    )
    radius: Annotated[Number, Field(ge=0)] | None = Field(default=None, description="Radius of the ball.")
    sparsity: Ratio | None = Field(default=None, description="Share of the outermost groups that vanishes.")
    groups: Annotated[int, Field(strict=True, ge=0, lt=2**63)] | None = Field(
        default=None, description="Number of outermost groups that survive."
    )
    relative_radius: Ratio | None = Field(default=None, description="Radius as a share of the norm.")
    scope: Literal["tensor", "global"] = Field(
        default="tensor", description="One ball for each tensor, or one for all tensors of the rule together."
    )
    exact: bool = Field(default=False, strict=True, description="The nearest point instead of the multi-level one.")

    @field_validator("tensors", "exclude")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        if value is not None:
            compile_pattern(value)
        return value

    @field_validator("split")
    @classmethod
    def _splits(cls, value: str | None) -> str | None:
        parse_split(value)
        return value

    @field_validator("norm")
    @classmethod
    def _names_norms(cls, value: str) -> str:
        names = [name.strip() for name in value.split(",")]
        unknown = [name for name in names if name not in NORMS]
        if unknown:
            wanted = f"some of {', '.join(NORMS)}, separated by commas"
            raise ValueRefused("norm", wanted, unknown[0], f"unknown norm {unknown[0]!r}, wanted {wanted}")
        if len(names) > MAX_LEVELS:
            raise ValueRefused("norm", f"at most {MAX_LEVELS} levels", len(names))
        return ",".join(names)

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        given = [name for name in GOALS if getattr(self, name) is not None]
        if len(given) != 1:
            got = " and ".join(given) or "none"
            wanted = f"exactly one of {', '.join(GOALS)}"
            raise ValueRefused("radius", wanted, got, f"{wanted} is wanted, got {got}")
        levels = self.norm.split(",")
        if isinstance(self.aim, Goal):
            self.aim.check_groups(NORMS[levels[0]])
        if self.scope == "global" and len(levels) == 1:
            why = f"a global ball wants groups, two levels or more, got norm {self.norm!r}"
            raise ValueRefused("scope", "two levels or more", self.norm, why)
        mixed = MixedNorm(tuple(Level(name, (axis,)) for axis, name in enumerate(levels)))
        if self.exact and needs_own_algorithm(mixed, self.aim.for_norm(1.0)) and self.scope == "global":
            why = f"on {self.norm} it is known for one tensor only, got scope 'global'"
            raise ValueRefused("exact", "scope 'tensor'", "scope 'global'", why)
        return self

    @property
    def aim(self) -> Aim:
        """What the rule is to reach."""
        if self.relative_radius is not None:
            return Share(self.relative_radius)
        return Goal(self.radius, self.sparsity, self.groups)

    @property
    def goal(self) -> str:
        """What is to be reached, in words: ``sparsity 0.5``."""
        return next(f"{name} {getattr(self, name):g}" for name in GOALS if getattr(self, name) is not None)

    def claims(self, name: str) -> bool:
        """Tell whether a tensor of that name is meant by this rule."""
        if compile_pattern(self.tensors).fullmatch(name) is None:
            return False
        return self.exclude is None or compile_pattern(self.exclude).fullmatch(name) is None

    def takes(self, entry: Stored) -> bool:
        """Tell whether a tensor is projected by this rule; one that it means and does not fit is left as it is."""
        return self.claims(entry.name) and self.fits(entry)

    def fits(self, entry: Stored) -> bool:
        """Tell whether a tensor has a type that can be projected, and the axes that the norm wants."""
        return fits(len(entry.shape), dtype_of(entry.code), self.norm, self.axes, self.split)


class Recipe(BaseModel):
    """A whole recipe.

    Raises:
        pydantic.ValidationError: as `Rule`; no rule; output and input the same.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: str = Field(min_length=1, description="Folder or .safetensors file to read, or an fsspec URL.")
    output: str = Field(min_length=1, description="Folder or .safetensors file to write, or an fsspec URL.")
    overlap: Literal["refuse", "first"] = Field(
        default="refuse", description="What to do with a tensor that two rules claim: refuse it, or the first wins."
    )
    rules: tuple[Rule, ...] = Field(min_length=1)

    @field_validator("input", "output")
    @classmethod
    def _can_be_a_path(cls, value: str) -> str:
        if _CONTROL.search(value):
            raise ValueError("wanted a path without control characters")
        longest = max(map(len, value.encode().split(b"/")))
        if len(value.encode()) > _PATH_BYTES or longest > _NAME_BYTES - _BESIDE_BYTES:
            raise ValueError(f"a path has at most {_PATH_BYTES} bytes, and a name in it {_NAME_BYTES - _BESIDE_BYTES}")
        return value

    @model_validator(mode="after")
    def _moves(self) -> Self:
        if self.input.rstrip("/") == self.output.rstrip("/"):
            wanted = "another place than the input, which is never touched"
            raise ValueRefused("output", wanted, self.output, f"wanted {wanted}, got {self.output!r}")
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides the output's bytes, and of the input's place."""
        return hashlib.sha256(self.model_dump_json(exclude={"output"}, exclude_none=True).encode()).hexdigest()

    def beside(self, folder: Path) -> Self:
        """Take paths that are not absolute as relative to a folder."""
        places = {name: _beside(folder, getattr(self, name)) for name in ("input", "output")}
        return self.model_copy(update=places)


def read_recipe(path: Path) -> Recipe:
    """Read a recipe from a file; its relative paths are relative to the file's folder.

    Raises:
        InvalidRecipe: it cannot be read, is no TOML or no recipe; line and key are told.
    """
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise InvalidRecipe(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidRecipe(f"{path}: {error}") from error
    return parse_recipe(text, str(path)).beside(path.parent.absolute())


def parse_recipe(text: str, where: str = "recipe") -> Recipe:
    """Read a recipe from text, in time linear in its length.

    Args:
        text: TOML.
        where: what it is, for the errors.

    Raises:
        InvalidRecipe: it is no TOML or no recipe; line and key are told.
    """
    long = compile_pattern(_LONG_KEY).search(text)
    if long:
        line = text.count("\n", 0, long.start()) + 1
        raise InvalidRecipe(f"{where}, line {line}: a key of more than {_KEY_PARTS} parts", limit=_KEY_PARTS)
    try:
        plain = tomllib.loads(text)
    except RecursionError:
        raise InvalidRecipe(f"{where}: it is nested too deep") from None
    except ValueError as error:  # no TOML, or Python's bound on the digits of an integer
        raise InvalidRecipe(f"{where}: {error}") from None
    return recipe_of(plain, text, where)


def recipe_of(plain: object, text: str | None = None, where: str = "recipe") -> Recipe:
    """Check a recipe that was parsed.

    Args:
        plain: of JSON or TOML.
        text: the TOML that it came as, whose lines are told.
        where: what it is, for the errors.

    Raises:
        InvalidRecipe: it is none; what of it is told.
    """
    try:
        return Recipe.model_validate(plain)
    except ValidationError as error:
        raise mistaken(error.errors(include_url=False), _KEYS, text, where) from None


# By how deep they are: of the recipe, and of ``rules[i]``.
_KEYS = {1: tuple(Recipe.model_fields), 3: tuple(Rule.model_fields)}


def _beside(folder: Path, place: str) -> str:
    if _REMOTE.match(place):
        return place
    return str(folder / Path(place).expanduser())
