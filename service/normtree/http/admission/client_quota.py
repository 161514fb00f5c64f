"""What one client may use: so many requests a second on average, and so many bytes at once."""

import math
from dataclasses import dataclass
from time import monotonic

from normtree.errors import BodyTooLarge, BytesExceeded, RateExceeded


@dataclass(frozen=True)
class Quota:
    """The bounds of every client.

    Attributes:
        rate_per_s: requests a second, on average; None for no bound.
        burst: requests at once, after a pause.
        bytes_limit: bytes in flight; None for no bound.
    """

    rate_per_s: float | None
    burst: int
    bytes_limit: int | None


class Allowance:
    """What a client has left of its quota. Requests refill with time, up to the burst."""

    def __init__(self, client: str, quota: Quota) -> None:
        """Begin with all of it."""
        self._client = client
        self._quota = quota
        self._left = float(quota.burst)
        self._at_s = monotonic()
        self._bytes = 0

    def take(self, nbytes: int) -> None:
        """Use one request and some bytes; `give_back` must follow.

        Raises:
            BodyTooLarge: more bytes than the client may ever have in flight.
            RateExceeded: too many requests in too short a time.
            BytesExceeded: too many bytes in flight. The request is not counted then.
        """
        self._check(nbytes, nbytes)
        if self._quota.rate_per_s is not None:
            self._count(self._quota.rate_per_s)
        self._bytes += nbytes

    def take_more(self, nbytes: int, held: int) -> None:
        """Use some bytes more for a request that holds some already.

        Raises:
            BodyTooLarge, BytesExceeded: as `take`.
        """
        self._check(nbytes, held + nbytes)
        self._bytes += nbytes

    def give_back(self, nbytes: int) -> None:
        """Return the bytes of a request that has ended."""
        self._bytes -= nbytes

    def _check(self, nbytes: int, of_request: int) -> None:
        """Refuse bytes beyond the bound, for good where one request alone wants more."""
        limit = self._quota.bytes_limit
        if limit is None:
            return
        if of_request > limit:
            detail = f"shared memory: key {self._client} may have {limit} bytes, and this request wants {of_request}"
            raise BodyTooLarge(detail, pointer="Content-Length", limit=limit, got=of_request)
        if self._bytes + nbytes > limit:
            detail = f"bytes in flight: key {self._client} may have {limit}, has {self._bytes}, wanted {nbytes} more"
            got = self._bytes + nbytes
            raise BytesExceeded(detail, pointer="Content-Length", limit=limit, got=got, retry_after_s=1)

    def _count(self, rate_per_s: float) -> None:
        now_s = monotonic()
        self._left = min(float(self._quota.burst), self._left + (now_s - self._at_s) * rate_per_s)
        self._at_s = now_s
        if self._left < 1:
            raise RateExceeded(
                f"rate: key {self._client} may ask {rate_per_s:g} times a second, {self._quota.burst} at once",
                pointer="Authorization",
                limit=rate_per_s,
                retry_after_s=math.ceil((1 - self._left) / rate_per_s),
            )
        self._left -= 1
