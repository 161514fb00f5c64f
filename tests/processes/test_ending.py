"""What a process has started ends with it."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from normtree.processes.ending import ending_with_us

STARTED = "import os, time; os.write(1, b'up\\n'); time.sleep(600)"
STARTER = f"""
import os, signal, subprocess, sys
from normtree.processes.ending import ending_with_us
subprocess.Popen(ending_with_us([sys.executable, "-c", {STARTED!r}]))
signal.pause()
"""


@pytest.mark.kills
@pytest.mark.skipif(ending_with_us(["true"]) == ["true"], reason="needs setpriv of util-linux")
def test_what_a_killed_process_has_started_ends_too() -> None:
    """The pipe's far end is open for as long as one of the two lives."""
    with subprocess.Popen([sys.executable, "-c", STARTER], stdout=subprocess.PIPE) as starter:
        assert starter.stdout
        assert starter.stdout.readline() == b"up\n"
        os.kill(starter.pid, signal.SIGKILL)
        assert select.select([starter.stdout], [], [], 60)[0], "it lives on"
        assert starter.stdout.read() == b""


def test_without_setpriv_the_command_is_as_it_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "from normtree.processes.ending import ending_with_us; print(ending_with_us(['a', 'b']))",
    ]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "['a', 'b']\n"
