"""The rest of the kernels: compiled beside the work of a service that is ready, and what had to wait for them."""

import logging
from collections.abc import Callable, Sequence
from threading import Event, Thread
from time import monotonic

from normtree.engine.kernels import Kernels, compiled

_BREATH_S = 0.02  # between two compilations, for a request that wants a compiler too
_QUIET_S, _PATIENCE_S = 1.0, 60.0

logger = logging.getLogger(__name__)


class WarmUp:
    """A thread that compiles kernels, and then calls back at a quiet moment.

    Args:
        kernels: to be compiled.
        busy: tells whether work is going on.
        then: called when all are compiled and there has been no work for a second, or after a minute in any case.

    Attributes:
        left: groups of kernels that are yet to be compiled.
    """

    def __init__(self, kernels: Sequence[Kernels], busy: Callable[[], bool], then: Callable[[], object]) -> None:
        self.left = len(kernels)
        self._busy, self._then = busy, then
        self._closing = Event()
        self._thread = Thread(target=self._run, args=(kernels,), name="normtree-warm", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Compile no more, and wait for what is being compiled."""
        self._closing.set()
        self._thread.join()

    def _run(self, kernels: Sequence[Kernels]) -> None:
        try:
            for _ in compiled(kernels):
                self.left -= 1
                if self._closing.wait(_BREATH_S):
                    return
            if self._is_quiet():
                self._then()
        except Exception:  # each request still compiles what it needs, and is planned
            logger.exception("warming up has ended early")

    def _is_quiet(self) -> bool:
        """Wait for a quiet moment, but not for ever; tell whether to go on."""
        end_s = monotonic() + _PATIENCE_S
        quiet_s = monotonic() + _QUIET_S
        while monotonic() < min(quiet_s, end_s):
            if self._closing.wait(_BREATH_S):
                return False
            if self._busy():
                quiet_s = monotonic() + _QUIET_S
        return True
