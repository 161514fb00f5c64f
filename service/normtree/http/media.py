"""Media types: which bodies we read, and which of ours a client accepts."""

from starlette.datastructures import Headers

from normtree.errors import NotAcceptable, UnsupportedMediaType

NPY = "application/x-npy"
BYTES = "application/octet-stream"
READABLE = (NPY, "application/vnd.numpy.npy", BYTES)
WRITABLE = READABLE

_TEXT_SHOWN = 80


def content_type(headers: Headers) -> str:
    """Return the body's media type, one of ``READABLE``.

    Raises:
        UnsupportedMediaType: it is missing, or another, or the body is compressed.
    """
    coding = headers.get("content-encoding", "identity").strip().lower()[:_TEXT_SHOWN]
    if coding != "identity":
        raise UnsupportedMediaType(
            f"Content-Encoding: only identity is read, got {coding}",
            pointer="Content-Encoding",
            limit="identity",
            got=coding,
        )
    given = headers.get("content-type")
    name = (given or "").partition(";")[0].strip().lower()[:_TEXT_SHOWN]
    if name not in READABLE:
        raise UnsupportedMediaType(
            f"Content-Type: wanted one of {', '.join(READABLE)}, got {name or 'none'}",
            pointer="Content-Type",
            limit=", ".join(READABLE),
            got=given,
        )
    return name


def answer_type(headers: Headers) -> str:
    """Return which of ``WRITABLE`` the client likes best, the first of those it likes equally.

    Raises:
        NotAcceptable: it accepts none of them.
    """
    accept = ",".join(headers.getlist("accept")) or "*/*"
    shown = accept[:_TEXT_SHOWN]
    qualities = dict(_range(part) for part in accept.split(",") if part.strip())
    best = max(WRITABLE, key=lambda media_type: _quality(media_type, qualities))
    if _quality(best, qualities) <= 0:
        detail = f"Accept: we write {', '.join(WRITABLE)}, got {shown}"
        raise NotAcceptable(detail, pointer="Accept", limit=", ".join(WRITABLE), got=shown)
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
