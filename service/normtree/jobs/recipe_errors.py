"""What is wrong with a recipe, in words: where, what was wanted, what was given; the first few of it."""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from normtree.errors import InvalidRecipe, bound_and_value
from normtree_kernels.refusals import Refusal

SHOWN = 10
_LETTERS_SHOWN = 80
_BITS_SHOWN = 64

Location = tuple[int | str, ...]


def mistaken(problems: Sequence[Any], keys: Mapping[int, Sequence[str]], text: str | None, where: str) -> InvalidRecipe:
    """Return the error for what pydantic has found.

    Args:
        problems: a ValidationError's errors.
        keys: those that there are, by how deep they are.
        text: the recipe, whose lines are told; None where it has none.
        where: what it is; for its lines.
    """
    inside = [problem for problem in problems if problem["loc"] != ("rules",)]  # a rule that is wrong counts for none
    found = inside or problems
    lines = [
        f"{where}, line {_line(text, problem['loc'])}: {_message(problem, keys)}" if text is not None else
        _message(problem, keys)
        for problem in found[:SHOWN]
    ]  # fmt: skip
    if len(found) > SHOWN:
        lines.append(f"and {len(found) - SHOWN} mistakes more")
    limit, got = bound_and_value(found[0])
    return InvalidRecipe("\n".join(lines), pointer=_key(found[0]["loc"]) or "recipe", limit=limit, got=_short(got))


def _message(problem: Any, keys: Mapping[int, Sequence[str]]) -> str:
    """Say what is wrong, where, and what was given if that is short."""
    location, key, got = problem["loc"], _key(problem["loc"]), problem["input"]
    error = problem.get("ctx", {}).get("error")  # what a validator has raised
    message = problem["msg"] if error is None else str(error)
    if isinstance(error, Refusal):
        is_told = bool(location) and isinstance(location[-1], str)  # by the key
        message, got = error.why if is_told else message, None
    elif problem["type"] == "model_type":
        message = "wanted a table"
    elif problem["type"] == "extra_forbidden":
        message, got = f"unknown key: {_nearest(location, keys)}", None
    shown = f", got {_short(got)!r}" if isinstance(got, str | int | float) else ""
    return f"{key + ': ' if key else ''}{message}{shown}"


def _short(got: Any) -> Any:
    """Return a value as it can be shown: no longer than a line, and no integer whose digits take forever."""
    if isinstance(got, str) and len(got) > _LETTERS_SHOWN:
        return f"{got[:_LETTERS_SHOWN]}…"
    if isinstance(got, int) and got.bit_length() > _BITS_SHOWN:
        return f"an integer of {got.bit_length()} bits"
    return got


def _nearest(location: Location, keys: Mapping[int, Sequence[str]]) -> str:
    """Say which key may have been meant."""
    known = keys.get(len(location), ())
    nearest = get_close_matches(str(location[-1])[:_LETTERS_SHOWN], known, n=1)
    return f"did you mean {nearest[0]}?" if nearest else f"there are {', '.join(known)}"


def _key(location: Location) -> str:
    """Write a location as one would in TOML: ``rules[1].norm``."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{_short(part)}" for part in location]
    return "".join(part for part in parts if part != ".function-after").removeprefix(".")


def _line(text: str, location: Location) -> int:
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
