"""One table of norms, goals, types and cuts through every home of the algorithm: equal bytes."""

from typing import Any

import pytest

HOMES = ("threads", "engine", "cluster", "jobs", "http")


@pytest.mark.parametrize("home", HOMES)
def test_every_home_has_the_library_s_bytes(home: str, table: Any, request: pytest.FixtureRequest) -> None:
    found = request.getfixturevalue(home)(table)
    differ = [case for case, made in zip(table, found, strict=True) if made != case.wanted]
    assert len(found) >= 60
    assert not differ, f"{len(differ)} of {len(found)} differ, the first {differ[0]}"
