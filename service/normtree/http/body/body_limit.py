"""How large a body may be: as the settings say, and no larger than the arena holds with its answer beside it."""

from functools import lru_cache
from typing import NamedTuple, Self

from normtree.engine.memory.arena import arena_remedy, segment_bytes
from normtree.settings import Settings


class BodyLimit(NamedTuple):
    """A bound of bodies.

    Args:
        nbytes: most bytes of one.
        why: what sets it, for people.
    """

    nbytes: int
    why: str

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the bound of bodies of tensors."""
        return cls(*_least(settings.body_limit_bytes, settings.arena_bytes, settings.inline_only))

    @classmethod
    def small(cls, nbytes: int) -> Self:
        """Return the bound of bodies that are read whole, before anything is done with them."""
        return cls(nbytes, "it is read whole")


@lru_cache
def _least(limit_bytes: int, arena_bytes: int, own: bool) -> tuple[int, str]:
    held = _largest(arena_bytes // 2)
    if held < limit_bytes:
        return held, f"the arena holds no more with the answer beside it: {arena_remedy(own=own)}"
    return limit_bytes, "NORMTREE_BODY_LIMIT_BYTES sets it"


def _largest(nbytes: int) -> int:
    """Return the most bytes whose segment has no more than these: segments have four sizes in each doubling."""
    step = 1 << max(0, nbytes.bit_length() - 3)
    largest = nbytes // step * step
    return largest if segment_bytes(largest) <= nbytes else 0
