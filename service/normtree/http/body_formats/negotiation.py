"""The formats of bodies of tensors, by their media types: which reads a body, and which the client wants written."""

from dataclasses import dataclass
from functools import cached_property, lru_cache

from normtree.errors import UnsupportedMediaType
from normtree.http.body.receive import Body
from normtree.http.body_formats.tensor_format import TensorFormat
from normtree.http.head.head import Head
from normtree.http.head.media import best
from normtree.http.request.format import Arrival, Asked

_TEXT_SHOWN = 80
_OFFERS_KEPT = 256


@dataclass(frozen=True, eq=False)
class Formats:
    """Formats of bodies that hold tensors and nothing else.

    Args:
        known: each; the first one's media types are offered first.

    Raises:
        ValueError: two have a media type in common.
    """

    known: tuple[TensorFormat, ...]

    def __post_init__(self) -> None:
        if len(set(self.readable)) != len(self.readable):
            raise ValueError(f"formats: a media type of several, of {', '.join(self.readable)}")

    @cached_property
    def readable(self) -> tuple[str, ...]:
        """The media types of bodies that are read."""
        return _types(self.known)

    def plus(self, format: TensorFormat) -> "Formats":
        """Return these and another."""
        return Formats((*self.known, format))

    async def open(self, asked: Asked, body: Body) -> Arrival:
        """Open a body by its media type, and settle in which format it is answered.

        Raises:
            UnsupportedMediaType: it is not declared as, or is not, in a format that is read.
            NotAcceptable: the client accepts none that can hold the answer.
            NormtreeError: as `TensorFormat.open`.
        """
        media_type = self._declared(asked.head)
        declared = Asked(*asked[:4], media_type, self._readable_text)
        arrival = await self._by_type[media_type].open(declared, body)
        self._choose(asked.head, arrival)
        return arrival

    @cached_property
    def _readable_text(self) -> str:
        return ", ".join(self.readable)

    @cached_property
    def _by_type(self) -> dict[str, TensorFormat]:
        return {name: each for each in self.known for name in (*each.media_types, *each.shared_types)}

    def _declared(self, head: Head) -> str:
        """Return the body's media type, one of those that are read."""
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
        if name not in self._by_type:
            wanted = self._readable_text
            raise UnsupportedMediaType(
                f"Content-Type: wanted one of {wanted}, got {name or 'none'}",
                pointer="Content-Type",
                limit=wanted,
                got=given,
            )
        return name

    def _choose(self, head: Head, arrival: Arrival) -> None:
        """Choose what the client likes best of what can hold the answer, else the body's own."""
        able, reason = [], ""
        for each in self.known:
            why = each.why_not(arrival)
            if why:
                reason = reason or why
            else:
                able.append(each)
        arrival.answer_type = best(head.get("accept"), _offered(arrival.answer_type, tuple(able)), reason)
        arrival.answer = self._by_type[arrival.answer_type]


def _types(formats: tuple[TensorFormat, ...]) -> tuple[str, ...]:
    own = [name for each in formats for name in each.media_types]
    return (*own, *(name for each in formats for name in each.shared_types))


@lru_cache(_OFFERS_KEPT)
def _offered(own: str, able: tuple[TensorFormat, ...]) -> tuple[str, ...]:
    """Return what an answer can be, best first: what the body was, its kind, the rest; a shared type last."""
    same = [each for each in able if own in each.media_types or own in each.shared_types]
    names = [name for each in same for name in each.media_types]
    return tuple(dict.fromkeys([*([own] if own in names else []), *names, *_types(able)]))
