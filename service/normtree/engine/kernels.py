"""Kernels by what they are for: to load those that are kept on disk, to compile those that are not, and to say so.

A kernel is compiled, or loaded, when it is first called with arrays of an element type. Here they are called with
tiny ones, in groups that are used together, before anybody waits for a result of theirs.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from time import monotonic
from typing import Literal

import numpy as np

from normtree_kernels.certificates.difference import difference
from normtree_kernels.compiled.code_cache import NotKept, folders, kept_only
from normtree_kernels.compiled.code_files import why_not_written
from normtree_kernels.dtypes import ACCEPTED, Array
from normtree_kernels.norms.l1 import L1
from normtree_kernels.norms.linf import LINF
from normtree_kernels.norms.mixed_norm import NORMS
from normtree_kernels.parts import ranks
from normtree_kernels.sweeps import chunks, sweep
from normtree_kernels.sweeps.threshold import SAMPLE

Lines = Literal["rows", "columns"]
LINES: tuple[Lines, ...] = ("rows", "columns")
ACTIVE, CUT, RANKS, DIFFERENCE = "active", "cut fibres", "ranks", "difference"
_SIDE = 4
_TELL_S = 2.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, order=True)
class Kernels:
    """Some kernels that are used together.

    Args:
        use: a norm, whose sweeps they are; or one of the other uses.
        dtype: element type, such as ``"float32"``.
        lines: how fibres lie in memory.
    """

    use: str
    dtype: str
    lines: Lines = "rows"

    def run(self) -> None:
        """Call each, on tiny tensors."""
        y = np.ones((_SIDE, _SIDE), self.dtype)
        block = y.T if self.lines == "columns" else y
        if self.use == ACTIVE:
            sweep.active(block, 1, np.ones(_SIDE))
        elif self.use == CUT:
            _run_cut(y)
        elif self.use == RANKS:
            ranks.digits(y, 1, 0, 0)
            ranks.above(y, 1.0)
        elif self.use == DIFFERENCE:
            difference(y, y)
        else:
            v = sweep.up(NORMS[self.use], block, 1)
            sweep.down(NORMS[self.use], block, 1, v, v / 2, np.empty_like(block))


FIRST = (Kernels(LINF.name, "float32"), Kernels(LINF.name, "float32", "columns"), Kernels(L1.name, "float64"))
"""What most requests need: the default norm of float32."""

SWEEPS = tuple(Kernels(*key) for key in product(NORMS, ("float32", *ACCEPTED), LINES))

ALL = tuple(
    dict.fromkeys(
        (
            *FIRST,
            *SWEEPS,
            *(Kernels(ACTIVE, *key) for key in product(ACCEPTED, LINES)),
            *(Kernels(use, dtype) for use, dtype in product((CUT, DIFFERENCE, RANKS), ACCEPTED)),
        )
    )
)


def warm_kernels() -> None:
    """Load or compile all."""
    prepare(ALL)


def prepare(kernels: Iterable[Kernels]) -> None:
    """Load those that are kept, and compile the others."""
    for _ in compiled(load_kept(kernels)):
        pass


def prepare_first() -> list[Kernels]:
    """Compile those that most requests need, load what else is kept, and return the rest, yet to be compiled."""
    prepare(FIRST)
    return load_kept(ALL)


def load_kept(kernels: Iterable[Kernels]) -> list[Kernels]:
    """Load those that are kept, and return the others, yet to be compiled."""
    missing = []
    for each in kernels:
        try:
            with kept_only():
                each.run()
        except NotKept:
            missing.append(each)
    return missing


def compiled(kernels: Sequence[Kernels]) -> Iterator[Kernels]:
    """Compile one after the other, and log how far it is."""
    if not kernels:
        return
    place, kept = where_kept()
    if not kept:
        logger.warning("compiled kernels are not kept, so that each start compiles them again: %s", place)
    first = f", to be kept in {place}" if kept else ""
    began_s = told_s = monotonic()
    for number, each in enumerate(kernels, 1):
        if number == 1 or monotonic() >= told_s + _TELL_S:
            told_s = monotonic()
            logger.info("compiling kernels: %d of %d%s", number, len(kernels), first if number == 1 else "")
        each.run()
        yield each
    logger.info("compiled kernels: %d of %d, in %.1f s", len(kernels), len(kernels), monotonic() - began_s)


def where_kept() -> tuple[str, bool]:
    """Name the folder where machine code is kept; or say why none takes it, and what to set."""
    reasons = []
    for folder in folders():
        if not (why := why_not_written(folder)):
            return str(folder), True
        reasons.append(f"{folder}: {why}")
    wanted = "set NUMBA_CACHE_DIR to a folder that this user, and nobody else, can write to"
    return f"{'; '.join(reasons)}; {wanted}", False


def _run_cut(y: Array) -> None:
    levels = np.zeros(_SIDE), np.zeros(_SIDE), np.ones(_SIDE)
    chunks.excesses(y, levels)
    chunks.shrink(y, levels, np.empty_like(y))
    chunks.starts(np.ones((1, SAMPLE)), np.ones(1) / 2, 2 * SAMPLE)
