"""Recipes: which tensors of a checkpoint are projected, and how. TOML, checked whole before anything is done."""

import hashlib
import re
import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from normtree.errors import InvalidRecipe, bound_and_value
from normtree.jobs.root import Aim
from normtree_kernels.euclidean import needs_own_algorithm
from normtree_kernels.goal import Goal
from normtree_kernels.norms import MAX_LEVELS, NORMS, Level, MixedNorm

GOALS = ("radius", "sparsity", "groups", "relative_radius")
_REMOTE = re.compile(r"[a-z][a-z0-9+.-]*://")

Number = Annotated[float, Field(strict=True)]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]


class Rule(BaseModel):
    """One ``[[rules]]`` table: the tensors it claims, their mixed norm, and what the projection is to reach.

    Raises:
        pydantic.ValidationError: a key that is unknown or of another type, or keys that do not go together.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    tensors: str = Field(description="Regular expression that a tensor's whole name must match.")
    norm: str = Field(default="l1,linf", description="Norms of the levels, outer to inner, of l1, l2, linf.")
    axes: str | None = Field(default=None, description="Axes of the levels, such as '1,0'; default: axis 0 outermost.")
    radius: Annotated[Number, Field(ge=0)] | None = Field(default=None, description="Radius of the ball.")
    sparsity: Share | None = Field(default=None, description="Share of the outermost groups that vanishes.")
    groups: Annotated[int, Field(strict=True, ge=0)] | None = Field(
        default=None, description="Number of outermost groups that survive."
    )
    relative_radius: Share | None = Field(default=None, description="Radius as a share of the norm.")
    scope: Literal["tensor", "global"] = Field(
        default="tensor", description="One ball for each tensor, or one for all tensors of the rule together."
    )
    exact: bool = Field(default=False, strict=True, description="The nearest point instead of the multi-level one.")

    @field_validator("tensors")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"{value!r} is no regular expression: {error}") from error
        return value

    @field_validator("norm")
    @classmethod
    def _names_norms(cls, value: str) -> str:
        names = [name.strip() for name in value.split(",")]
        unknown = [name for name in names if name not in NORMS]
        if unknown:
            raise ValueError(f"unknown norm {unknown[0]!r}, wanted some of {', '.join(NORMS)}, separated by commas")
        if len(names) > MAX_LEVELS:
            raise ValueError(f"wanted at most {MAX_LEVELS} levels, got {len(names)}")
        return ",".join(names)

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        given = [name for name in GOALS if getattr(self, name) is not None]
        if len(given) != 1:
            got = " and ".join(given) or "none"
            raise ValueError(f"exactly one of {', '.join(GOALS)} is wanted, got {got}")
        levels = self.norm.split(",")
        if given[0] in ("sparsity", "groups") and levels[0] != "l1":
            raise ValueError(f"{given[0]}: only an outermost l1 level makes groups vanish, got {levels[0]}")
        if self.scope == "global" and len(levels) == 1:
            raise ValueError(f"scope: a global ball wants groups, two levels or more, got norm {self.norm!r}")
        mixed = MixedNorm(tuple(Level(name, (axis,)) for axis, name in enumerate(levels)))
        if self.exact and needs_own_algorithm(mixed, self.aim.for_norm(1.0)) and self.scope == "global":
            raise ValueError(f"exact: on {self.norm} it is known for one tensor only, got scope 'global'")
        return self

    @property
    def aim(self) -> Aim:
        """What the rule is to reach."""
        if self.relative_radius is not None:
            return Aim(relative_radius=self.relative_radius)
        return Aim(Goal(self.radius, self.sparsity, self.groups))

    @property
    def goal(self) -> str:
        """What is to be reached, in words: ``sparsity 0.5``."""
        return next(f"{name} {getattr(self, name):g}" for name in GOALS if getattr(self, name) is not None)

    def claims(self, name: str) -> bool:
        """Tell whether a tensor of that name is this rule's."""
        return re.fullmatch(self.tensors, name) is not None


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

    @model_validator(mode="after")
    def _moves(self) -> Self:
        if self.input.rstrip("/") == self.output.rstrip("/"):
            raise ValueError(
                f"output: wanted another place than the input, which is never touched, got {self.output!r}"
            )
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides the output's bytes, and of the input's place."""
        return hashlib.sha256(self.model_dump_json(exclude={"output"}).encode()).hexdigest()

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
        text = path.read_text("utf-8")
    except OSError as error:
        raise InvalidRecipe(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidRecipe(f"{path}: {error}") from error
    return parse_recipe(text, str(path)).beside(path.parent.absolute())


def parse_recipe(text: str, where: str = "recipe") -> Recipe:
    """Read a recipe from text.

    Args:
        text: TOML.
        where: what it is, for the errors.

    Raises:
        InvalidRecipe: it is no TOML or no recipe; line and key are told.
    """
    try:
        return Recipe.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise InvalidRecipe(f"{where}: {error}") from None
    except ValidationError as error:
        found = error.errors(include_url=False)
        inside = [problem for problem in found if problem["loc"] != ("rules",)]  # a rule that is wrong counts for none
        problems = [_describe(text, where, problem) for problem in inside or found]
        raise InvalidRecipe("\n".join(problems), pointer=_key((inside or found)[0]["loc"])) from None


def mistake(problem: Any) -> InvalidRecipe:
    """Return the error for what pydantic found wrong in a recipe that came as JSON.

    Args:
        problem: one of a ValidationError's errors.
    """
    limit, got = bound_and_value(problem)
    return InvalidRecipe(_message(problem), pointer=_key(problem["loc"]) or "recipe", limit=limit, got=got)


def _describe(text: str, where: str, problem: Any) -> str:
    return f"{where}, line {_line(text, problem['loc'])}: {_message(problem)}"


def _message(problem: Any) -> str:
    """Say what is wrong, where, and what was given if that is short."""
    location, key, got = problem["loc"], _key(problem["loc"]), problem["input"]
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "model_type":
        message = "wanted a table"
    elif problem["type"] == "extra_forbidden":
        message, got = f"unknown key: {_nearest(location)}", None
    shown = f", got {got!r}" if isinstance(got, str | int | float) and ", got " not in message else ""
    return f"{key + ': ' if key else ''}{message}{shown}"


def _nearest(location: tuple[int | str, ...]) -> str:
    """Say which key may have been meant."""
    known = list((Recipe if len(location) == 1 else Rule).model_fields)
    nearest = get_close_matches(str(location[-1]), known, n=1)
    return f"did you mean {nearest[0]}?" if nearest else f"there are {', '.join(known)}"


def _key(location: tuple[int | str, ...]) -> str:
    """Write a location as one would in TOML: ``rules[1].norm``."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in location if part != "function-after"]
    return "".join(parts).removeprefix(".")


def _line(text: str, location: tuple[int | str, ...]) -> int:
    """Find the line that gives a key, or else the one that begins its table; tomllib tells of neither."""
    rule = location[1] if len(location) > 1 and location[0] == "rules" and isinstance(location[1], int) else -1
    key = next((part for part in reversed(location) if isinstance(part, str)), "")
    given = re.compile(rf"""\s*["']?{re.escape(key)}["']?\s*=""")
    table, begins = -1, 1
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(r"\s*\[\[\s*rules\s*\]\]", line):
            table += 1
            begins = number if table == rule else begins
        elif table == rule and given.match(line):
            return number
    return begins


def _beside(folder: Path, place: str) -> str:
    if _REMOTE.match(place):
        return place
    return str(folder / Path(place).expanduser())
