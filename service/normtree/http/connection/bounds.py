"""Bounds of a connection, in bytes and seconds: the settings that its protocol keeps to."""

from dataclasses import dataclass

from normtree.settings import Settings


@dataclass(frozen=True)
class Bounds:
    """What one client may ask of a connection.

    Attributes:
        head_bytes: most bytes in a request's line and headers.
        head_s: seconds that they may take, a connection's first silence included.
        unread_s: seconds that an answer may wait for its client to read on.
        body_s: seconds that the rest of a body may take that was answered before it was here.
        linger_bytes: most bytes of a client that are dropped while it is hung up on.
        linger_s: seconds that this may take.
        presence_s: seconds after which a client that has finished sending is looked after.
    """

    head_bytes: int
    head_s: float
    unread_s: float
    body_s: float
    linger_bytes: int
    linger_s: float
    presence_s: float = 3.0

    @classmethod
    def of(cls, settings: Settings) -> "Bounds":
        """Take them from the settings."""
        return cls(
            head_bytes=settings.head_limit_bytes,
            head_s=settings.head_timeout_s,
            unread_s=settings.unread_timeout_s,
            body_s=settings.body_timeout_s,
            linger_bytes=settings.linger_limit_bytes,
            linger_s=settings.linger_timeout_s,
        )
