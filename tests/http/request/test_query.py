"""The query of a projection: defaults, and the words for what is wrong."""

from typing import Any
from urllib.parse import urlencode

import pytest

from normtree.errors import InvalidParameter
from normtree.http.head.query import PlanQuery, ProjectQuery, WorkQuery, query_parameters, read_parameters, read_query


def test_defaults() -> None:
    assert read_query(b"radius=1.5").model_dump() == {
        "norm": "l1,linf",
        "axes": None,
        "radius": 1.5,
        "sparsity": None,
        "groups": None,
        "exact": False,
        "engine": "auto",
        "workers": None,
        "split": None,
        "baseline": "none",
        "deadline_ms": None,
        "certificate": False,
        "trace": False,
        "scope": "tensor",
        "output": "dense",
        "tensors": None,
    }


def test_all_given() -> None:
    pairs = [
        ("norm", "l1,l1"),
        ("axes", "1,0"),
        ("radius", "0"),
        ("engine", "ray"),
        ("workers", "2"),
        ("baseline", "measure"),
        ("exact", "1"),
        ("deadline_ms", "20"),
        ("certificate", "1"),
        ("scope", "global"),
        ("output", "compact"),
        ("tensors", "encoder[.].*"),
    ]
    assert read_query(urlencode(pairs).encode()) == ProjectQuery(
        norm="l1,l1",
        axes="1,0",
        radius=0.0,
        engine="ray",
        workers=2,
        baseline="measure",
        exact=True,
        deadline_ms=20.0,
        certificate=True,
        scope="global",
        output="compact",
        tensors="encoder[.].*",
    )


@pytest.mark.parametrize(
    ("given", "pointer", "message"),
    [
        ({}, "radius", "exactly one of radius, sparsity, groups is wanted, got none"),
        ({"radius": None}, "radius", "got none"),
        ({"radius": 1, "groups": 2}, "groups", "got radius and groups"),
        ({"sparsity": 0.5, "groups": 2, "radius": 1}, "sparsity", "got radius and sparsity and groups"),
        ({"radius": True}, "radius", "radius must be finite and >= 0, got True"),
        ({"groups": False}, "groups", "an integer >= 0, got False"),
        ({"groups": 1.5}, "groups", "an integer >= 0, got 1.5"),
        ({"radius": "x" * 300}, "radius", "got x+$"),
        ({"radius": 1, "norm": 7}, "norm", "norms from the outer level to the inner, .* got 7"),
        ({"radius": 1, "exact": 2}, "exact", "exact must be 0 .* or 1 .*, got 2"),
        ({"radius": 1, "output": "compact"}, "output", "unknown parameter 'output'"),
    ],
)
def test_scalars_of_json(given: dict[str, object], pointer: str, message: str) -> None:
    with pytest.raises(InvalidParameter, match=message) as caught:
        read_parameters(WorkQuery, given)
    assert caught.value.pointer == pointer


def test_scalars_of_json_as_they_are() -> None:
    found = read_parameters(WorkQuery, {"radius": 2, "exact": True, "certificate": False, "workers": 1})
    assert (found.radius, found.exact, found.certificate, found.workers) == (2.0, True, False, 1)


def test_plan_options_are_what_a_plan_asks_for() -> None:
    assert set(read_parameters(PlanQuery, {"groups": 3}).plan_options()) == set(PlanQuery.model_fields)


@pytest.mark.parametrize(
    ("query", "pointer", "message"),
    [
        ({}, "radius", "radius: exactly one of radius, sparsity, groups is wanted, got none"),
        ({"sparsity": "1.5"}, "sparsity", "sparsity must be the share .* 0 to 1, got 1.5"),
        ({"groups": "-1"}, "groups", "groups must be the number .* an integer >= 0, got -1"),
        ({"radius": "1", "deadline_ms": "0"}, "deadline_ms", "deadline_ms must be milliseconds .* > 0, got 0.0"),
        ({"radius": "1", "exact": "perhaps"}, "exact", "exact must be 0 .* or 1 .* got perhaps"),
        ({"radius": "1", "output": "sparse"}, "output", "output must be dense or compact .* got sparse"),
        ({"radius": "1", "tensors": "x" * 1001}, "tensors", "a pattern of at most 1000 characters"),
        ({"radius": "-1"}, "radius", "radius must be finite and >= 0, got -1.0"),
        ({"radius": "nan"}, "radius", "radius must be finite and >= 0, got nan"),
        ({"radius": "inf"}, "radius", "radius must be finite and >= 0, got inf"),
        ({"radius": ""}, "radius", "radius must be finite and >= 0, got "),
        ({"radius": "ten"}, "radius", "radius must be finite and >= 0, got ten"),
        ({"radius": "1", "workers": "0"}, "workers", "workers must be an integer >= 1, got 0"),
        ({"radius": "1", "workers": "1.5"}, "workers", "workers must be an integer >= 1, got 1.5"),
        ({"radius": "1", "engine": "gpu"}, "engine", "engine must be auto, inline or ray, got gpu"),
        ({"radius": "1", "baseline": "yes"}, "baseline", "baseline must be none .* or measure .* got yes"),
        ({"radius": "1", "axis": "0"}, "axis", "unknown parameter 'axis': did you mean axes?"),
        ({"radius": "1", "zzz": "0"}, "zzz", "unknown parameter 'zzz': there are norm, axes, radius"),
    ],
)
def test_refuses(query: dict[str, str], pointer: str, message: str) -> None:
    with pytest.raises(InvalidParameter, match=message) as caught:
        read_query(urlencode(query).encode())
    assert caught.value.pointer == pointer


def test_refuses_a_repeated_parameter() -> None:
    with pytest.raises(InvalidParameter, match="radius is given 2 times, wanted once"):
        read_query(b"radius=1&radius=2")


def test_cuts_what_it_shows() -> None:
    with pytest.raises(InvalidParameter) as caught:
        read_query(b"radius=" + b"9" * 10_000 + b"x")
    assert len(caught.value.detail) < 200


def test_openapi_knows_every_parameter() -> None:
    found: dict[str, Any] = {str(each["name"]): each["schema"] for each in query_parameters()}
    assert set(found) == set(ProjectQuery.model_fields)
    assert found["radius"] == {
        "type": "number",
        "minimum": 0,
        "title": "Radius",
        "description": "finite and >= 0",
    }
    assert found["output"]["default"] == "dense"
