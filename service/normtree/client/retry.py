"""When to ask again: after what passes, as often as allowed, and not before the service said."""

import random
from dataclasses import dataclass
from http import HTTPStatus

from normtree.client.failures import Unreachable
from normtree.errors import NormtreeError

_PASSING = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
_FIRST_S = 0.1
_LONGEST_S = 10.0


@dataclass(frozen=True)
class Retry:
    """How often to ask again. A projection is pure, so asking twice does no harm.

    Attributes:
        times: after the first attempt, 0 for never.
    """

    times: int

    def __post_init__(self) -> None:
        """Refuse a negative number."""
        if self.times < 0:
            raise ValueError(f"retries: wanted >= 0, got {self.times}")

    def delay_s(self, attempt: int, error: NormtreeError) -> float:
        """Return how long to wait before the next attempt: what the service said, else longer each time.

        Args:
            attempt: which failed, from 0.
            error: how it failed.

        Raises:
            NormtreeError: the error itself, where asking again is no use or was done often enough.
        """
        if attempt >= self.times or not (error.status in _PASSING or isinstance(error, Unreachable)):
            raise error
        if error.retry_after_s is not None:
            return float(error.retry_after_s)
        longest_s: float = min(_LONGEST_S, _FIRST_S * 2**attempt)
        return random.uniform(longest_s / 2, longest_s)  # apart from others' attempts
