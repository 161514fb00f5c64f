"""Every error has a status, a slug and a title, and carries what it was given."""

import json

import pytest

from normtree import errors
from normtree.errors import NormtreeError
from normtree.http.problems import make_problem

CLASSES = [found for found in vars(errors).values() if isinstance(found, type) and issubclass(found, NormtreeError)]
CONCRETE = [found for found in CLASSES if found is not NormtreeError]
STATUSES = {
    "MalformedBody": 400,
    "KeyMissing": 401,
    "KeyRefused": 403,
    "RegionRefused": 400,
    "NotLocal": 403,
    "CrossSite": 403,
    "HostRefused": 421,
    "NotAcceptable": 406,
    "BodyTimeout": 408,
    "LengthRequired": 411,
    "BodyTooLarge": 413,
    "UnsupportedMediaType": 415,
    "InvalidParameter": 422,
    "InvalidTensor": 422,
    "ModelNotFound": 404,
    "JobNotFound": 404,
    "TraceNotFound": 404,
    "JobConflict": 409,
    "InvalidRecipe": 422,
    "InvalidCheckpoint": 422,
    "StorageFailed": 503,
    "StorageFull": 507,
    "Cancelled": 499,
    "RateExceeded": 429,
    "BytesExceeded": 429,
    "QueueFull": 503,
    "ArenaFull": 503,
    "NotReady": 503,
    "Drained": 503,
    "EngineUnavailable": 503,
    "WorkersLost": 503,
    "OutOfMemory": 503,
    "DeadlineExceeded": 504,
}


def test_statuses() -> None:
    assert {found.__name__: found.status for found in CONCRETE} == STATUSES


def test_slugs_and_titles_are_unique() -> None:
    assert len({found.code for found in CONCRETE}) == len({found.title for found in CONCRETE}) == len(CONCRETE)


@pytest.mark.parametrize("found", CONCRETE)
def test_is_drawn_in_the_tree(found: type[NormtreeError]) -> None:
    line = next(line for line in (errors.__doc__ or "").splitlines() if f"─ {found.__name__} " in line)
    assert str(found.status) in line


@pytest.mark.parametrize("found", CONCRETE)
def test_carries_what_it_was_given(found: type[NormtreeError]) -> None:
    error = found("radius: got -1", pointer="radius", limit=0, got=-1, retry_after_s=2)
    assert str(error) == error.detail == "radius: got -1"
    assert (error.pointer, error.limit, error.got, error.retry_after_s) == ("radius", 0, -1, 2)
    bare = found("so it is")
    assert (bare.pointer, bare.limit, bare.got, bare.retry_after_s) == (None, None, None, None)


@pytest.mark.parametrize("got", [10**4000, -(10**400), float("inf"), "caf\udce9", "x" * 999, True, None])
def test_a_problem_can_be_written_whatever_it_is_about(got: object) -> None:
    problem = make_problem(422, "c", "t", "caf\udce9: no", "/", "r", pointer="caf\udce9", limit=got, got=got)
    plain = json.loads(problem.model_dump_json().encode())
    assert plain["detail"] == plain["error"] == r"caf\udce9: no"
    assert len(str(plain["got"])) <= 200
