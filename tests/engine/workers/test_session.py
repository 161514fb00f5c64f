"""Sessions of processes, and folders of our own: found and ended whole, and nobody else's touched."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from normtree.engine.cluster.own_folder import OwnFolder
from normtree.engine.cluster.process import Process, status_of
from normtree.engine.cluster.session import Session

# A child, and an orphan in a process group of its own, that outlives its parent.
FAMILY = """
import os, subprocess, sys, time
nap = [sys.executable, "-c", "import time; time.sleep(300)"]
subprocess.Popen(nap)
subprocess.run([sys.executable, "-c", f"import subprocess; print(subprocess.Popen({nap}, process_group=0).pid)"])
print("born", flush=True)
time.sleep(300)
"""


@pytest.fixture
def family() -> "Iterator[subprocess.Popen[str]]":
    command = [sys.executable, "-c", FAMILY]
    with subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, text=True) as leader:
        assert leader.stdout
        while "born" not in leader.stdout.readline():
            assert leader.poll() is None
        yield leader
        Session(leader.pid).end()


@pytest.mark.kills
@pytest.mark.parametrize("lost", [False, True])
def test_a_session_is_ended_whole(family: "subprocess.Popen[str]", lost: bool) -> None:
    if lost:
        family.kill()
        assert Process(family.pid).end()
    session = Session(family.pid)
    members = session.members()
    assert len(members) == 3 - lost
    assert {member.status.session for member in members} == {family.pid}
    assert session.end()
    assert session.members() == []
    assert all(member.process.has_ended for member in members)
    status = status_of(os.getpid())
    assert status
    assert not status.has_ended


@pytest.mark.kills
def test_a_stopped_process_is_told_from_one_that_sleeps(family: "subprocess.Popen[str]") -> None:
    process = Process(family.pid)
    assert not process.is_stopped
    family.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, family.pid, os.WSTOPPED | os.WNOWAIT)
    assert process.is_stopped
    assert process.end()
    assert not process.is_stopped


def test_a_folder_is_ours_alone_and_goes(tmp_path: Path) -> None:
    folder = OwnFolder(tmp_path, "own-")
    assert folder.path.stat().st_mode & 0o777 == 0o700
    (folder.path / "file").touch()
    another = OwnFolder(tmp_path, "own-")
    assert {path.name for path in tmp_path.iterdir()} == {folder.path.name, another.path.name}
    folder.close()
    folder.close()
    assert list(tmp_path.iterdir()) == [another.path]
    another.close()


def test_what_the_dead_have_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    place = tmp_path / "place"
    place.mkdir()
    abandoned, link, file = place / "own-dead", place / "own-link", place / "own-file"
    abandoned.mkdir()
    (abandoned / "file").touch()
    link.symlink_to(outside)
    file.touch()
    folder = OwnFolder(place, "own-")
    assert {path.name for path in place.iterdir()} == {folder.path.name, "own-link", "own-file"}
    assert outside.is_dir()
    folder.close()
