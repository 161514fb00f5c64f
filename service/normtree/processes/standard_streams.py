"""Standard streams that a process was started without."""

import os
import sys
from typing import IO

_INPUT, _OUTPUT, _ERROR = 0, 1, 2


def open_missing_streams() -> None:
    """Open what is closed of standard input, output and error to nowhere, before their numbers go to something else.

    A socket of the number of standard output would get what is printed, and libuv ends the process that closes one.
    """
    for descriptor in (_INPUT, _OUTPUT, _ERROR):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number, which is this one
    sys.stdin = sys.stdin or open(_INPUT, encoding="utf-8", closefd=False)  # noqa: SIM115 - open for good
    sys.stdout = sys.stdout or open(_OUTPUT, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(_ERROR, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def mute(stream: IO[str]) -> None:
    """Let a stream that cannot be written to lead to nowhere, so that what it still holds ends no process badly."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
