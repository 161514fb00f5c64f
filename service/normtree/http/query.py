"""The query of ``POST /v1/project``: which parameters there are, and which values they take."""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches
from typing import Annotated, Literal, TypedDict

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from normtree.errors import InvalidParameter

_TEXT_SHOWN = 80


class PlanOptions(TypedDict):
    """Keyword arguments of `normtree.engine.projector.Projector.plan`."""

    norm: str
    axes: str | None
    radius: float
    engine: str
    workers: int | None


class ProjectQuery(BaseModel):
    """The parameters of a projection. A field's description completes "must be"."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    norm: Annotated[str, Field(description="norms from the outer level to the inner, of l1 l2 linf")] = "l1,linf"
    axes: Annotated[
        str | None,
        Field(description="axes from the outer level to the inner: levels by commas, axes of one level by dots"),
    ] = None
    radius: Annotated[float, Field(ge=0, description="finite and >= 0")]
    engine: Annotated[Literal["auto", "inline", "ray"], Field(description="auto, inline or ray")] = "auto"
    workers: Annotated[int | None, Field(ge=1, description="an integer >= 1")] = None
    baseline: Annotated[
        Literal["none", "measure"],
        Field(description="none (the serial reference is modelled) or measure (it is run too)"),
    ] = "none"

    def plan_options(self) -> PlanOptions:
        """Return what a plan is made from, besides shape and dtype."""
        return PlanOptions(norm=self.norm, axes=self.axes, radius=self.radius, engine=self.engine, workers=self.workers)


def read_query(pairs: Sequence[tuple[str, str]]) -> ProjectQuery:
    """Check the parameters of a request.

    Args:
        pairs: names and values in the order of the query, repeated ones included.

    Raises:
        InvalidParameter: one is unknown, repeated, missing or has a value that is not permitted.
    """
    _check_names(pairs)
    try:
        return ProjectQuery.model_validate(dict(pairs))
    except ValidationError as error:
        name = str(error.errors(include_url=False, include_input=False)[0]["loc"][0])
        raise _invalid(name, dict(pairs).get(name)) from None


def query_parameters() -> list[dict[str, object]]:
    """Return the parameters as OpenAPI describes them."""
    schema = ProjectQuery.model_json_schema()
    return [
        {"name": name, "in": "query", "required": name in schema["required"], "schema": field}
        for name, field in schema["properties"].items()
    ]


def _check_names(pairs: Sequence[tuple[str, str]]) -> None:
    """Refuse names that are unknown, with the nearest known one, or given twice."""
    known = list(ProjectQuery.model_fields)
    for name, count in Counter(name for name, _ in pairs).items():
        shown = name[:_TEXT_SHOWN]
        if name not in known:
            nearest = get_close_matches(shown, known, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else f"there are {', '.join(known)}"
            raise InvalidParameter(f"unknown parameter {shown!r}: {hint}", pointer=shown, got=shown)
        if count > 1:
            raise InvalidParameter(f"{name} is given {count} times, wanted once", pointer=name, limit=1, got=count)


def _invalid(name: str, text: str | None) -> InvalidParameter:
    """Return the error for a value that is missing or not permitted."""
    wanted = ProjectQuery.model_fields[name].description
    if text is None:
        return InvalidParameter(f"{name} is required: it must be {wanted}", pointer=name, limit=wanted)
    got = _read_as_field(name, text)
    return InvalidParameter(f"{name} must be {wanted}, got {got}", pointer=name, limit=wanted, got=got)


def _read_as_field(name: str, text: str) -> float | str:
    """Return a value as its field would have it: a number where one is wanted and given, else the text, cut."""
    if ProjectQuery.model_fields[name].annotation is float:
        with suppress(ValueError):
            return float(text)
    return text[:_TEXT_SHOWN]
