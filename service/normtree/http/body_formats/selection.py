"""Which tensors of a body are projected; the others pass through as they came."""

from typing import Any

from normtree.errors import InvalidParameter, InvalidTensor, refusal
from normtree.fitting import fits
from normtree.formats.contents import Contents, Entry
from normtree.formats.elements import NAMES, is_projectable
from normtree.formats.shapes import check_rank
from normtree.http.head.query import ProjectQuery
from normtree.settings import Settings
from normtree.splits import parse_split
from normtree.text.patterns import compile_pattern
from normtree_kernels.refusals import Refusal


def select(contents: Contents, query: ProjectQuery, settings: Settings) -> tuple[Entry, ...]:
    """Return the tensors to project, in the order of their bytes.

    Those whose whole names match the query's pattern; without one, all that the norm fits: of a type that can be
    projected, and with an axis for each level, or those that ``axes`` names.

    Raises:
        InvalidParameter: the pattern is none, or it selects nothing.
        InvalidTensor: it selects one that cannot be projected, or has too many axes.
    """
    entries = contents.entries
    if len(entries) > 1 and query.tensors is None:
        chosen = tuple(entry for entry in entries if _fits(entry, query))
    else:
        pattern = _compile(query.tensors) if query.tensors is not None else None
        chosen = tuple(entry for entry in entries if pattern is None or pattern.fullmatch(entry.name))
    if not chosen:
        how = "fits the norm" if query.tensors is None else "has a name that the pattern matches"
        detail = f"tensors: of the body's {len(entries)} tensors none {how}"
        raise InvalidParameter(detail, pointer="tensors", got=query.tensors)
    rank_limit = settings.rank_limit - parse_split(query.split).added
    for entry in chosen:
        if not is_projectable(entry.dtype) or len(entry.shape) > rank_limit:
            _refuse(entry, rank_limit)
    return chosen


def _fits(entry: Entry, query: ProjectQuery) -> bool:
    return fits(len(entry.shape), entry.dtype, query.norm, query.axes, query.split)


def _compile(pattern: str) -> Any:
    try:
        return compile_pattern(pattern)
    except Refusal as error:
        raise refusal(error.about("tensors"), InvalidParameter) from None


def _refuse(entry: Entry, rank_limit: int) -> None:
    where = f"tensor {entry.name!r}"
    if not is_projectable(entry.dtype):
        detail = f"{where}: dtype: {NAMES} can be projected, got {entry.dtype}"
        raise InvalidTensor(detail, pointer="dtype", limit=NAMES, got=entry.dtype)
    check_rank(len(entry.shape), where, rank_limit)
