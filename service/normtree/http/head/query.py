"""The parameters of a projection: which there are, and which values they take."""

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from difflib import get_close_matches
from functools import lru_cache
from typing import Annotated, Any, Literal, TypedDict, TypeVar
from urllib.parse import parse_qsl

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from normtree.errors import InvalidParameter
from normtree.splits import WANTED, parse_split
from normtree_kernels.tree.goal import Goal

_TEXT_SHOWN = 80
_QUERIES_KEPT = 256
_MS_PER_S = 1e3
_PATTERN_LIMIT = 1000
_GOALS = ("radius", "sparsity", "groups")
_NUMBERS = ("radius", "sparsity", "deadline_ms")


def _no_truth_value(value: object) -> object:
    """Refuse what JSON has for truth values where a number is wanted; Python would count with them."""
    if isinstance(value, bool):
        raise ValueError("a number is wanted")
    return value


_NUMBER = BeforeValidator(_no_truth_value)
NonNegative = Annotated[float, Field(ge=0), _NUMBER]
Positive = Annotated[float, Field(gt=0), _NUMBER]
Share = Annotated[float, Field(ge=0, le=1), _NUMBER]
Count = Annotated[int, Field(ge=0), _NUMBER]
Ordinal = Annotated[int, Field(ge=1), _NUMBER]


class PlanOptions(TypedDict):
    """Keyword arguments of `normtree.engine.projector.Projector.plan`."""

    norm: str
    axes: str | None
    radius: float | None
    sparsity: float | None
    groups: int | None
    exact: bool
    engine: str
    workers: int | None
    split: str | None


class PlanQuery(BaseModel):
    """What a plan is made from, besides shape and dtype. A field's description completes "must be"."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    norm: Annotated[str, Field(description="norms from the outer level to the inner, of l1 l2 linf")] = "l1,linf"
    axes: Annotated[
        str | None,
        Field(description="axes from the outer level to the inner: levels by commas, axes of one level by dots"),
    ] = None
    radius: Annotated[NonNegative | None, Field(description="finite and >= 0")] = None
    sparsity: Annotated[Share | None, Field(description="the share of the outermost groups to vanish, 0 to 1")] = None
    groups: Annotated[Count | None, Field(description="the number of outermost groups to survive, an integer >= 0")] = (
        None
    )
    exact: Annotated[bool, Field(description="0 (multi-level) or 1 (the nearest point of the ball)")] = False
    engine: Annotated[Literal["auto", "inline", "ray"], Field(description="auto, inline or ray")] = "auto"
    workers: Annotated[Ordinal | None, Field(description="an integer >= 1")] = None
    split: Annotated[str | None, Field(description=f"{WANTED}: such an axis is seen as several")] = None

    @field_validator("split")
    @classmethod
    def _splits(cls, value: str | None) -> str | None:
        parse_split(value)
        return value

    @property
    def goal(self) -> Goal:
        """What the projection is to reach."""
        return Goal(self.radius, self.sparsity, self.groups)

    def plan_options(self) -> PlanOptions:
        """Return what a plan is made from, besides shape and dtype."""
        return PlanOptions(
            norm=self.norm,
            axes=self.axes,
            radius=self.radius,
            sparsity=self.sparsity,
            groups=self.groups,
            exact=self.exact,
            engine=self.engine,
            workers=self.workers,
            split=self.split,
        )


class WorkQuery(PlanQuery):
    """What else there is to say of the work on a tensor, whatever it came in."""

    baseline: Annotated[
        Literal["none", "measure"],
        Field(description="none (the serial reference is modelled) or measure (it is run too)"),
    ] = "none"
    deadline_ms: Annotated[Positive | None, Field(description="milliseconds that the work may take, > 0")] = None
    certificate: Annotated[bool, Field(description="0 or 1 (evidence for the projection, with digests)")] = False
    trace: Annotated[bool, Field(description="0 or 1 (a trace of the work, to be fetched afterwards)")] = False
    scope: Annotated[
        Literal["tensor", "global"],
        Field(description="tensor (each tensor on a ball of its own) or global (all of them together on one)"),
    ] = "tensor"


class ProjectQuery(WorkQuery):
    """The parameters of ``POST /v1/project``."""

    output: Annotated[
        Literal["dense", "compact"], Field(description="dense or compact (the surviving outermost groups only)")
    ] = "dense"
    tensors: Annotated[
        str | None,
        Field(
            max_length=_PATTERN_LIMIT,
            description=f"a pattern of at most {_PATTERN_LIMIT} characters, matched by a tensor's whole name",
        ),
    ] = None


Q = TypeVar("Q", bound=PlanQuery)


@lru_cache(_QUERIES_KEPT)
def read_query(query: bytes, kind: type[ProjectQuery] = ProjectQuery) -> ProjectQuery:
    """Check the parameters of ``POST /v1/project``; clients ask the same again and again, and what is made is kept.

    Args:
        query: as the request line has it, what follows the question mark.
        kind: which parameters there are.

    Raises:
        InvalidParameter: one is unknown, repeated, missing or has a value that is not permitted.
    """
    pairs = _pairs(query)
    for name, count in Counter(name for name, _ in pairs).items():
        if count > 1:
            shown = name[:_TEXT_SHOWN]
            raise InvalidParameter(f"{shown} is given {count} times, wanted once", pointer=shown, limit=1, got=count)
    return read_parameters(kind, dict(pairs))


@lru_cache(_QUERIES_KEPT)
def deadline_s_of(query: bytes) -> float | None:
    """Return the deadline that a query names, in seconds, whatever else is wrong with it; None where it names none."""
    for name, text in _pairs(query):
        if name == "deadline_ms":
            with suppress(ValueError):
                return float(text) / _MS_PER_S
    return None


def _pairs(query: bytes) -> list[tuple[str, str]]:
    return parse_qsl(query.decode("latin-1"), keep_blank_values=True)


def read_parameters(kind: type[Q], given: Mapping[str, Any]) -> Q:
    """Check parameters by name.

    Args:
        kind: which parameters there are.
        given: texts of a query, or scalars of JSON.

    Raises:
        InvalidParameter: one is unknown, missing or has a value that is not permitted.
    """
    _check_names(kind, given)
    goals = [name for name in _GOALS if given.get(name) is not None]
    if len(goals) != 1:
        got = " and ".join(goals) or "none"
        detail = f"radius: exactly one of {', '.join(_GOALS)} is wanted, got {got}"
        raise InvalidParameter(detail, pointer=goals[1] if goals else "radius", limit=1, got=len(goals))
    try:
        return kind.model_validate(dict(given))
    except ValidationError as error:
        name = str(error.errors(include_url=False, include_input=False)[0]["loc"][0])
        raise _invalid(kind, name, given.get(name, "none")) from None


def query_parameters(kinds: Iterable[type[ProjectQuery]] = (ProjectQuery,)) -> list[dict[str, object]]:
    """Return the parameters of ``POST /v1/project`` as OpenAPI describes them.

    Args:
        kinds: of the bodies' formats.
    """
    fields = {name: field for kind in kinds for name, field in kind.model_json_schema()["properties"].items()}
    return [
        {"name": name, "in": "query", "required": False, "schema": without_null(field)}
        for name, field in fields.items()
    ]


def without_null(field: dict[str, Any]) -> dict[str, Any]:
    """Return a field's schema without the null that stands for "not given": a query has no such text."""
    rest = {name: value for name, value in field.items() if name != "anyOf" and value is not None}
    return {
        **rest,
        **{key: value for kind in field.get("anyOf", ()) if kind["type"] != "null" for key, value in kind.items()},
    }


def _check_names(kind: type[BaseModel], given: Mapping[str, Any]) -> None:
    """Refuse names that are unknown, with the nearest known one."""
    known = list(kind.model_fields)
    for name in given:
        if name not in known:
            shown = name[:_TEXT_SHOWN]
            nearest = get_close_matches(shown, known, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else f"there are {', '.join(known)}"
            raise InvalidParameter(f"unknown parameter {shown!r}: {hint}", pointer=shown, got=shown)


def _invalid(kind: type[BaseModel], name: str, value: object) -> InvalidParameter:
    """Return the error for a value that is not permitted."""
    wanted = kind.model_fields[name].description
    got = _as_shown(name, value)
    return InvalidParameter(f"{name} must be {wanted}, got {got}", pointer=name, limit=wanted, got=got)


def _as_shown(name: str, value: object) -> object:
    """Return a value as its field would have it: a number where one is wanted and given, else its text, cut."""
    if isinstance(value, bool | int | float):
        return value
    if name in _NUMBERS:
        with suppress(ValueError):
            return float(str(value))
    return str(value)[:_TEXT_SHOWN]
