"""Patterns of names: regular expressions by RE2, which takes time linear in a name whatever the pattern is."""

from functools import lru_cache
from typing import Any

import re2

from normtree_kernels.refusals import ValueRefused

_LETTERS = 2**13  # to parse a class of all letters takes 10 kB, and it is three letters long
_LETTERS_SHOWN = 80
_MEMORY_BYTES = 2**20  # for the automaton of a pattern


@lru_cache(maxsize=64)
def compile_pattern(pattern: str) -> Any:
    """Compile a pattern; the result's ``fullmatch`` tells whether it matches a whole name.

    Raises:
        ValueError: it is none in the syntax of RE2, is too long, or takes too much memory.
    """
    if len(pattern) > _LETTERS:
        raise ValueRefused("pattern", f"a regular expression of at most {_LETTERS} letters", len(pattern))
    options = re2.Options()
    options.max_mem = _MEMORY_BYTES
    options.log_errors = False
    options.dot_nl = True
    try:
        return re2.compile(pattern, options)
    except UnicodeEncodeError:
        why = "it holds half of a surrogate pair"
    except re2.error as error:
        told = error.args[0] if error.args else ""
        why = told.decode(errors="replace") if isinstance(told, bytes) else str(told)
    wanted, shown = "a regular expression in the syntax of RE2", pattern[:_LETTERS_SHOWN]
    raise ValueRefused("pattern", wanted, shown, f"wanted {wanted}: {why}, got {shown!r}")
