"""Media types: which of those that an answer could have its client likes best."""

from functools import lru_cache

from normtree.errors import NotAcceptable

_TEXT_SHOWN = 80
_ANSWERS_KEPT = 256


def best(accept: str | None, offered: tuple[str, ...], why: str = "") -> str:
    """Return which of the media types offered the client likes best, the first of those it likes equally.

    Args:
        accept: the request's ``Accept``; None for anything.
        offered: what the answer could be, best first.
        why: why it can be no other, for the error.

    Raises:
        NotAcceptable: it accepts none of them.
    """
    return _best(accept or "*/*", offered, why)


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
