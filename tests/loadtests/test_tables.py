"""README's tables are those of the results, and not typed."""

from pathlib import Path

import pytest
from tables import README, TABLES, filled
from tools.results import FOLDER


def test_readme_agrees_with_the_results() -> None:
    text = README.read_text("utf-8")
    assert filled(text, FOLDER) == text, "run python loadtests/tables.py"


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    text = filled(README.read_text("utf-8"), tmp_path)
    assert text.count("Not measured here yet.") == len(TABLES)
    assert filled(text, tmp_path) == text


def test_a_mark_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="<!-- curves -->"):
        filled("# Load tests\n", tmp_path)
