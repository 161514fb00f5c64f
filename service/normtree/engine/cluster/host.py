"""What Ray runs in a worker process: the answering end of a line."""

import os
from collections.abc import Sequence
from contextlib import suppress


class Host:
    """A warm worker.

    Args:
        key: of the line to it.
        folder: where it listens.
        segments: those that it maps in advance.
    """

    def __init__(self, key: bytes, folder: str, segments: Sequence[str]) -> None:
        """Load the kernels that are there, map segments, so that no request pays for either, and listen."""
        # Loaded here, for the driver needs no more of this class than its name.
        from normtree.engine.cluster.line import Answerer
        from normtree.engine.kernels import prepare_first
        from normtree.engine.memory.tensor import attach

        prepare_first()
        for segment in segments:
            with suppress(FileNotFoundError):  # given up meanwhile
                attach(segment, populate=True)
        self._answerer = Answerer(key, folder)

    def identity(self) -> tuple[str, int, int, int]:
        """Where to call, this process, the one that started it, and the namespace in which their ids mean something."""
        from normtree.engine.cluster.process import pid_namespace

        return self._answerer.address, os.getpid(), os.getppid(), pid_namespace()

    def answer(self) -> None:
        """Run leaves until the service hangs up."""
        self._answerer.answer()
