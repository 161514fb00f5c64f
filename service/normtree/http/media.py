"""Media types: which bodies we read, and in which of our formats a client wants the answer."""

from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import Literal

from normtree.errors import NotAcceptable, UnsupportedMediaType

Format = Literal["npy", "safetensors"]

NPY = ("application/x-npy", "application/vnd.numpy.npy")
SAFETENSORS = ("application/vnd.safetensors", "application/x-safetensors")
BYTES = "application/octet-stream"  # of a .npy, which says by its magic that it is one
READABLE = (*NPY, *SAFETENSORS, BYTES)
WRITABLE = READABLE

_TEXT_SHOWN = 80
_ANSWERS_KEPT = 256


def content_type(head: Mapping[str, str]) -> str:
    """Return the body's media type, one of ``READABLE``.

    Raises:
        UnsupportedMediaType: it is missing, or another, or the body is compressed.
    """
    coding = head.get("content-encoding", "identity").strip().lower()[:_TEXT_SHOWN]
    if coding != "identity":
        raise UnsupportedMediaType(
            f"Content-Encoding: only identity is read, got {coding}",
            pointer="Content-Encoding",
            limit="identity",
            got=coding,
        )
    given = head.get("content-type")
    name = (given or "").partition(";")[0].strip().lower()[:_TEXT_SHOWN]
    if name not in READABLE:
        raise UnsupportedMediaType(
            f"Content-Type: wanted one of {', '.join(READABLE)}, got {name or 'none'}",
            pointer="Content-Type",
            limit=", ".join(READABLE),
            got=given,
        )
    return name


def format_of(media_type: str) -> Format:
    """Return the format that a media type of ``READABLE`` stands for."""
    return "safetensors" if media_type in SAFETENSORS else "npy"


@cache
def offered_for(media_type: str) -> tuple[str, ...]:
    """Return what the answer to a body of a media type of ``READABLE`` can be, best first: that, its kind, the rest."""
    same = [name for name in (*NPY, *SAFETENSORS) if format_of(name) == format_of(media_type)]
    own = [media_type] if media_type != BYTES else []
    return tuple(dict.fromkeys([*own, *same, *WRITABLE]))


def answer_type(head: Mapping[str, str], offered: Sequence[str], why: str = "") -> str:
    """Return which of the media types offered the client likes best, the first of those it likes equally.

    Args:
        head: of the request.
        offered: what the answer could be, best first.
        why: why it can be no other, for the error.

    Raises:
        NotAcceptable: it accepts none of them.
    """
    return _best(head.get("accept") or "*/*", tuple(offered), why)


@lru_cache(_ANSWERS_KEPT)
def _best(accept: str, offered: tuple[str, ...], why: str) -> str:
    """Return the best of what is offered by an Accept header; clients send the same one again and again."""
    shown = accept[:_TEXT_SHOWN]
    qualities = dict(_range(part) for part in accept.split(",") if part.strip())
    best = max(offered, key=lambda media_type: _quality(media_type, qualities))
    if _quality(best, qualities) <= 0:
        detail = f"Accept: {why or 'we write'} {', '.join(offered)}, got {shown}"
        raise NotAcceptable(detail, pointer="Accept", limit=", ".join(offered), got=shown)
    return best


def _range(part: str) -> tuple[str, float]:
    """Split one entry of an Accept header into its name and its quality, 0 to 1."""
    name, *parameters = (text.strip().lower() for text in part.split(";"))
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            return name, _number(value)
    return name, 1.0


def _number(text: str) -> float:
    """Read a quality; one that is no number counts as 0, so that it is never preferred."""
    try:
        return float(text)
    except ValueError:
        return 0.0


def _quality(media_type: str, qualities: dict[str, float]) -> float:
    """Return the quality that the closest matching range gives a media type, 0 where none does."""
    group = media_type.partition("/")[0]
    for name in (media_type, f"{group}/*", "*/*"):
        if name in qualities:
            return qualities[name]
    return 0.0
