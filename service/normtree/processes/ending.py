"""Processes that end when the one that started them does, however that ends."""

import signal
import subprocess
from collections.abc import Sequence
from functools import cache


def ending_with_us(command: Sequence[str], by: signal.Signals = signal.SIGTERM) -> list[str]:
    """Have a program end when the process that starts it has ended, even by a signal that it could not answer.

    Args:
        command: the program and its arguments.
        by: the signal it then gets. It takes the thread that starts it for the process: that should live as long.

    Returns:
        A command to start instead, whose process is the program's own. Without ``setpriv`` of util-linux it is the
        command as it was, and the program lives on.
    """
    return [*(["setpriv", "--pdeathsig", by.name.removeprefix("SIG"), "--"] if _has_setpriv() else []), *command]


@cache
def _has_setpriv() -> bool:
    try:
        tried = subprocess.run(["setpriv", "--pdeathsig", "TERM", "true"], capture_output=True, check=False)
    except OSError:
        return False
    return tried.returncode == 0
