"""The query of a projection: defaults, and the words for what is wrong."""

import pytest

from normtree.errors import InvalidParameter
from normtree.http.query import ProjectQuery, query_parameters, read_query


def test_defaults() -> None:
    assert read_query([("radius", "1.5")]).model_dump() == {
        "norm": "l1,linf",
        "axes": None,
        "radius": 1.5,
        "engine": "auto",
        "workers": None,
        "baseline": "none",
    }


def test_all_given() -> None:
    pairs = [
        ("norm", "l1,l1"),
        ("axes", "1,0"),
        ("radius", "0"),
        ("engine", "ray"),
        ("workers", "2"),
        ("baseline", "measure"),
    ]
    assert read_query(pairs) == ProjectQuery(
        norm="l1,l1", axes="1,0", radius=0.0, engine="ray", workers=2, baseline="measure"
    )


@pytest.mark.parametrize(
    ("query", "pointer", "message"),
    [
        ({}, "radius", "radius is required"),
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
        read_query(list(query.items()))
    assert caught.value.pointer == pointer


def test_refuses_a_repeated_parameter() -> None:
    with pytest.raises(InvalidParameter, match="radius is given 2 times, wanted once"):
        read_query([("radius", "1"), ("radius", "2")])


def test_cuts_what_it_shows() -> None:
    with pytest.raises(InvalidParameter) as caught:
        read_query([("radius", "9" * 10_000 + "x")])
    assert len(caught.value.detail) < 200


def test_openapi_knows_every_parameter() -> None:
    found = {parameter["name"]: parameter["required"] for parameter in query_parameters()}
    assert found == {name: name == "radius" for name in ProjectQuery.model_fields}
