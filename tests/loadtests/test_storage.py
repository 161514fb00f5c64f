"""Storage is measured, and the file is gone."""

from pathlib import Path

from tools.storage import measure


def test_rates_are_positive_and_nothing_is_left(tmp_path: Path) -> None:
    read, write = measure(tmp_path, 1 << 25, rounds=1)
    assert read > 0
    assert write > 0
    assert list(tmp_path.iterdir()) == []
