"""The arena: leases, bounds, and what a dead owner leaves behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from normtree.engine.arena import PREFIX, Arena, remove_orphans
from normtree.engine.tensor import Tensor
from normtree.errors import ArenaFull, BodyTooLarge

MIB = 2**20


def segments(folder: Path) -> list[Path]:
    return list(folder.glob(f"{PREFIX}*"))


@pytest.mark.parametrize("nbytes", [0, 1, 65536, 65537, 3 * MIB])
def test_a_lease_has_the_bytes_that_were_asked_for(tmp_path: Path, nbytes: int) -> None:
    arena = Arena(16 * MIB, tmp_path)
    with arena.lease(nbytes) as segment:
        assert len(segment.buffer) == nbytes
        assert arena.leased_bytes >= nbytes
        segment.buffer[:] = b"x" * nbytes
    assert arena.leased_bytes == 0
    arena.close()
    assert segments(tmp_path) == []


def test_what_is_written_to_a_segment_is_seen_through_a_tensor(tmp_path: Path) -> None:
    y = np.arange(12, dtype=np.float32).reshape(3, 4)
    with Arena(MIB, tmp_path).lease(y.nbytes) as segment:
        segment.buffer[:] = y.tobytes()
        assert np.array_equal(Tensor(segment.name, (3, 4), "<f4").array(), y)
        assert np.array_equal(Tensor(segment.name, (4, 3), "<f4", "F").array(), y.T)


def test_several_tensors_in_one_segment(tmp_path: Path) -> None:
    y = np.arange(12, dtype=np.float32)
    with Arena(MIB, tmp_path).lease(64 + y.nbytes) as segment:
        segment.buffer[64:] = y.tobytes()
        assert np.array_equal(Tensor(segment.name, (12,), "<f4", offset=64).array(), y)
        with pytest.raises(ValueError, match="buffer"):
            Tensor(segment.name, (12,), "<f4", offset=2**16 - 32).array()


def test_a_view_is_read_only_unless_asked_otherwise(tmp_path: Path) -> None:
    with Arena(MIB, tmp_path).lease(4) as segment:
        tensor = Tensor(segment.name, (1,), "<f4")
        assert not tensor.array().flags.writeable
        assert tensor.array(writable=True).flags.writeable


def test_a_released_segment_is_handed_out_again(tmp_path: Path) -> None:
    arena = Arena(MIB, tmp_path)
    first = arena.lease(1000)
    first.release()
    assert arena.idle_bytes > 0
    assert arena.lease(2000).name == first.name


def test_a_retired_segment_is_never_handed_out_again(tmp_path: Path) -> None:
    arena = Arena(MIB, tmp_path)
    first = arena.lease(1000)
    arena.retire(first.name)
    first.release()
    assert arena.lease(1000).name != first.name
    assert len(segments(tmp_path)) == 1


def test_releasing_twice_counts_once(tmp_path: Path) -> None:
    arena = Arena(MIB, tmp_path)
    segment = arena.lease(1000)
    segment.release()
    with arena.lease(1000) as next_one:
        segment.release()
        assert next_one.name == segment.name
        assert arena.leased_bytes > 0
    assert arena.leased_bytes == 0


def test_a_full_arena_says_so_and_recovers(tmp_path: Path) -> None:
    arena = Arena(MIB, tmp_path)
    with arena.lease(MIB), pytest.raises(ArenaFull, match=r"1 bytes wanted, 1048576 of 1048576 are in use") as caught:
        arena.lease(1)
    assert caught.value.retry_after_s == 1
    arena.lease(1).release()


def test_what_can_never_fit_is_too_large_and_not_a_matter_of_waiting(tmp_path: Path) -> None:
    arena = Arena(MIB, tmp_path)
    with pytest.raises(BodyTooLarge, match="the arena holds 1048576"):
        arena.lease(MIB + 1)
    with pytest.raises(BodyTooLarge):
        arena.check_fits(MIB, 1)


def test_idle_segments_give_way_to_a_size_that_is_wanted(tmp_path: Path) -> None:
    arena = Arena(MIB, tmp_path)
    small = [arena.lease(65536) for _ in range(16)]
    for segment in small:
        segment.release()
    with arena.lease(MIB):
        assert arena.idle_bytes == 0
        assert len(segments(tmp_path)) == 1


def test_segments_are_private(tmp_path: Path) -> None:
    with Arena(MIB, tmp_path).lease(1) as segment:
        assert Path(segment.name).stat().st_mode & 0o777 == 0o600


@pytest.mark.kills
def test_the_next_arena_removes_what_a_killed_owner_left(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from normtree.engine.arena import Arena\n"
        "arena = Arena(2**20, Path(sys.argv[1])); segment = arena.lease(1); print('leased', flush=True); time.sleep(60)"
    )
    owner = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"leased\n"
        assert remove_orphans(tmp_path) == 0, "its owner lives"
        os.kill(owner.pid, signal.SIGKILL)
        owner.wait()
        assert len(segments(tmp_path)) == 1
        Arena(MIB, tmp_path)
        assert segments(tmp_path) == []
    finally:
        owner.kill()
        owner.communicate()
