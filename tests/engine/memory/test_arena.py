"""The arena: leases, bounds, and what a dead owner leaves behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from threading import Timer

import numpy as np
import pytest

from normtree.engine.memory.arena import PREFIX, Arena, remove_orphans, segment_bytes
from normtree.engine.memory.tensor import Tensor, attach
from normtree.errors import ArenaFull, BodyTooLarge, RegionRefused

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
        with pytest.raises(RegionRefused, match="from byte 65504 it is too short"):
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


@pytest.mark.parametrize(
    ("nbytes", "size"),
    [(0, 65536), (65536, 65536), (65537, 81920), (129 * MIB, 160 * MIB), (160 * MIB + 1, 192 * MIB), (2**30, 2**30)],
)
def test_little_more_is_set_aside_than_was_asked_for(nbytes: int, size: int) -> None:
    assert segment_bytes(nbytes) == size
    assert nbytes <= size <= max(65536, 1.25 * nbytes)


def test_a_segment_that_is_larger_is_cut_to_the_size_that_is_wanted(tmp_path: Path) -> None:
    arena = Arena(MIB, tmp_path)
    first = arena.lease(MIB)
    first.release()
    with arena.lease(MIB * 5 // 8) as second:
        assert second.name == first.name
        assert Path(second.name).stat().st_size == arena.leased_bytes == MIB * 5 // 8
        with arena.lease(MIB * 3 // 8) as third:
            assert third.name != first.name
    with arena.lease(65536) as small:
        assert small.name not in (second.name, third.name), "much larger ones are kept"


def test_a_lease_waits_for_room(tmp_path: Path) -> None:
    arena = Arena(MIB, tmp_path)
    first = arena.lease(MIB)
    with pytest.raises(ArenaFull):
        arena.lease(1, wait_s=0.02)
    Timer(0.05, first.release).start()
    with arena.lease(MIB, wait_s=10.0) as second:
        assert second.name == first.name
    assert arena.leased_bytes == 0


def test_segments_are_made_in_advance(tmp_path: Path) -> None:
    arena = Arena(MIB, tmp_path)
    names = arena.touch(MIB)
    assert arena.leased_bytes == 0
    assert arena.idle_bytes == sum(path.stat().st_size for path in segments(tmp_path)) <= MIB
    with arena.lease(MIB // 5) as source, arena.lease(MIB // 5) as target:
        assert {source.name, target.name} < set(names)
    assert Arena(MIB, tmp_path / "none").touch(1) == ()


def test_what_a_full_node_refuses_is_not_counted(tmp_path: Path) -> None:
    arena = Arena(2**60, tmp_path)
    with pytest.raises(ArenaFull):
        arena.lease(2**59)
    assert arena.leased_bytes == 0
    assert segments(tmp_path) == []


def test_what_is_removed_is_not_kept_mapped(tmp_path: Path) -> None:
    arena = Arena(MIB, tmp_path)
    arena.lease(1).release()
    arena.close()
    with Arena(MIB, tmp_path).lease(1):
        mapped = Path("/proc/self/maps").read_text()
    assert mapped.count(str(tmp_path)) == 1


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
    with pytest.raises(BodyTooLarge) as caught:
        arena.check_fits(MIB, 1)
    assert (caught.value.pointer, caught.value.limit) == ("body", MIB)


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


def test_who_looks_for_orphans_takes_nothing_from_who_begins(tmp_path: Path) -> None:
    """Segments are made while other processes begin, each of which looks for those without an owner."""
    script = (
        "import sys; from pathlib import Path; from normtree.engine.memory.arena import remove_orphans\n"
        "print('looking', flush=True)\n"
        "for _ in range(100_000): remove_orphans(Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    lookers = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for looker in lookers:
            assert looker.stdout is not None
            assert looker.stdout.readline() == b"looking\n"
        for _ in range(1000):
            with Arena(MIB, tmp_path).lease(1) as segment:
                assert Path(segment.name).exists()
                Path(segment.name).unlink()
    finally:
        for looker in lookers:
            looker.kill()
            looker.communicate()


def test_memory_of_this_process_is_in_no_folder(tmp_path: Path) -> None:
    arena = Arena(4 * MIB, tmp_path, own=True)
    with arena.lease(2 * MIB) as first, arena.lease(MIB) as second:
        first.buffer[:] = b"a" * (2 * MIB)
        second.buffer[:] = b"b" * MIB
        assert segments(tmp_path) == []
        assert first.name != second.name
        assert bytes(Tensor(first.name, (3,), "u1").array()) == b"aaa"
        with pytest.raises(ArenaFull, match=r"^memory: "):
            arena.lease(2 * MIB)
    assert (arena.leased_bytes, arena.idle_bytes) == (0, 3 * MIB)
    with arena.lease(MIB + MIB // 4) as cut:  # of the larger one
        assert cut.name == first.name
        assert len(cut.buffer) == MIB + MIB // 4
        cut.buffer[:] = b"c" * len(cut.buffer)
    with pytest.raises(BodyTooLarge, match=r"NORMTREE_ARENA_BYTES sets it$"):
        arena.lease(5 * MIB)
    arena.close()
    with pytest.raises(FileNotFoundError):
        attach(first.name)


def test_memory_of_this_process_that_may_still_be_written_to_is_not_handed_out(tmp_path: Path) -> None:
    arena = Arena(MIB, tmp_path, own=True)
    with arena.lease(1) as segment:
        arena.retire(segment.name)
    with arena.lease(1) as other:
        assert other.name != segment.name


@pytest.mark.kills
def test_the_next_arena_removes_what_a_killed_owner_left(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from normtree.engine.memory.arena import Arena\n"
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
