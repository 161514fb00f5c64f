"""The arena: segments of memory that hold the tensors in flight, pooled so that pages are touched only once.

A segment is a file in the node's shared memory, locked for as long as its owner lives. The kernel drops the lock when
a process ends, however it ends, so a segment that can be locked has no owner and the next arena removes it.

Where only threads of one process work, a segment is memory of this process: containers have little shared memory.
"""

import errno
import fcntl
import mmap
import os
import secrets
import tempfile
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Condition
from types import TracebackType
from typing import Protocol, Self

from normtree.engine.memory.tensor import OWN, attach, keep, let_go
from normtree.errors import ArenaFull, BodyTooLarge

PREFIX = "normtree-"
_SMALLEST_BYTES = 1 << 16
_RETRY_AFTER_S = 1


class _Memory(Protocol):
    """A piece of memory that the arena owns."""

    @property
    def name(self) -> str:
        """Name by which it is attached; never used again for another."""
        ...

    @property
    def capacity_bytes(self) -> int:
        """Bytes of it."""
        ...

    def cut(self, nbytes: int) -> "_Memory":
        """Give the pages beyond ``nbytes`` back to the system, if there are any."""
        ...

    def remove(self) -> None:
        """Give it back to the system; who has it mapped may go on using it."""
        ...


@dataclass(frozen=True)
class _Shared:
    """Shared memory: a file, locked by the open descriptor."""

    name: str
    descriptor: int
    capacity_bytes: int

    @classmethod
    def create(cls, folder: Path, nbytes: int) -> "_Shared":
        """Create a file and take its pages now, so that writing later cannot fail."""
        name, descriptor = _create_locked(folder)
        try:
            os.posix_fallocate(descriptor, 0, nbytes)
        except OSError:
            os.unlink(name)
            os.close(descriptor)
            raise
        return cls(name, descriptor, nbytes)

    def cut(self, nbytes: int) -> "_Shared":
        """Cut the file."""
        if nbytes == self.capacity_bytes:
            return self
        os.ftruncate(self.descriptor, nbytes)
        return replace(self, capacity_bytes=nbytes)

    def remove(self) -> None:
        """Unlink the file."""
        Path(self.name).unlink(missing_ok=True)
        os.close(self.descriptor)


@dataclass(frozen=True)
class _Own:
    """Memory of this process."""

    name: str
    memory: mmap.mmap
    capacity_bytes: int

    @classmethod
    def create(cls, nbytes: int) -> "_Own":
        """Map memory and take its pages now, not one by one when they are used."""
        name = f"{OWN}{secrets.token_hex(8)}"
        memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)
        keep(name, memory)
        return cls(name, memory, nbytes)

    def cut(self, nbytes: int) -> "_Own":
        """Free the pages at its end; they stay mapped, for views of them do."""
        if nbytes == self.capacity_bytes:
            return self
        self.memory.madvise(mmap.MADV_REMOVE, nbytes, self.capacity_bytes - nbytes)
        return replace(self, capacity_bytes=nbytes)

    def remove(self) -> None:
        """Forget it; it is freed when nobody looks at it any more."""
        let_go(self.name)


class Segment:
    """A lease of a piece of memory; made by `Arena.lease`.

    Attributes:
        name: by which it is attached: in all processes of this node, or in this one where the memory is its own.
        nbytes: bytes that were asked for; at least so many are mapped.
        buffer: writable view of them; empty once released.
    """

    def __init__(self, arena: "Arena", memory: _Memory, nbytes: int) -> None:
        """Open a view of memory that the arena has just set aside."""
        self._arena = arena
        self._memory: _Memory | None = memory
        self.name = memory.name
        self.nbytes = nbytes
        self.buffer = memoryview(attach(self.name))[:nbytes]

    def release(self) -> None:
        """Give it back; a second time does nothing."""
        memory, self._memory = self._memory, None
        if memory:
            self.buffer = memoryview(b"")
            self._arena.take_back(memory)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Arena:
    """Leases segments up to a bound of bytes, and keeps what comes back for the next request.

    Args:
        capacity_bytes: most bytes in segments, leased and idle together.
        folder: where segments live; default: the node's shared memory.
        own: let them be memory of this process instead, which no other can attach.
    """

    def __init__(self, capacity_bytes: int, folder: Path | None = None, *, own: bool = False) -> None:
        """Start empty, after removing segments whose owners are gone."""
        self.capacity_bytes = capacity_bytes
        self._folder = folder or shared_memory()
        self._own = own
        self._idle: dict[int, list[_Memory]] = defaultdict(list)
        self._leased_bytes = 0
        self._idle_bytes = 0
        self._changed = Condition()
        self._closed = False
        self._retired: set[str] = set()
        remove_orphans(self._folder)

    @property
    def leased_bytes(self) -> int:
        """Bytes in segments that are handed out now."""
        return self._leased_bytes

    @property
    def idle_bytes(self) -> int:
        """Bytes in segments that wait to be handed out again."""
        return self._idle_bytes

    def check_fits(self, *nbytes: int) -> None:
        """Refuse leases that could not be had together even if nothing else were leased.

        Raises:
            BodyTooLarge: they are more than the arena holds.
        """
        wanted = sum(segment_bytes(n) for n in nbytes)
        if wanted > self.capacity_bytes:
            remedy = arena_remedy(own=self._own)
            raise BodyTooLarge(
                f"{self._kind}: {wanted} bytes wanted, the arena holds {self.capacity_bytes}: {remedy}",
                pointer="body",
                limit=self.capacity_bytes,
                got=wanted,
            )

    def lease(self, nbytes: int, wait_s: float = 0.0) -> Segment:
        """Lease a segment of at least ``nbytes``; a zeroed or a used one.

        Args:
            nbytes: bytes, >= 0.
            wait_s: how long to wait for others to give back what it needs.

        Raises:
            BodyTooLarge: it is more than the arena holds.
            ArenaFull: it is more than the arena has left, or the node's shared memory is full.
        """
        self.check_fits(nbytes)
        size = segment_bytes(nbytes)
        with self._changed:
            if not self._changed.wait_for(lambda: self._leased_bytes + size <= self.capacity_bytes, wait_s):
                raise self._full(nbytes)
            self._leased_bytes += size
            memory = self._take_idle(size)
            surplus = self._take_surplus()
        for idle in surplus:
            idle.remove()
        memory = memory.cut(size) if memory else self._create_leased(size, nbytes)
        try:
            return Segment(self, memory, nbytes)
        except MemoryError:
            self.take_back(memory)
            raise self._full(nbytes) from None

    def touch(self, nbytes: int) -> tuple[str, ...]:
        """Make idle segments in advance, so that the first requests need not wait for fresh pages.

        They are pairs, a source's and a target's, of halving sizes: whatever the tensors' size, some of them fit.

        Args:
            nbytes: of all together, at most; less than the smallest pair makes none.

        Returns:
            Their names, for workers to attach in advance.

        Raises:
            BodyTooLarge, ArenaFull: as `lease`.
        """
        made: list[Segment] = []
        left = nbytes
        while left >= 2 * _SMALLEST_BYTES:
            size = 1 << (left // 4).bit_length() - 1 if left >= 4 * _SMALLEST_BYTES else _SMALLEST_BYTES
            made += [self.lease(size), self.lease(size)]
            left -= 2 * size
        for segment in made:
            segment.release()
        return tuple(segment.name for segment in made)

    def retire(self, name: str) -> None:
        """Never hand out a segment again: a cancelled worker may still write to it."""
        with self._changed:
            self._retired.add(name)

    def take_back(self, memory: _Memory) -> None:
        """Receive memory whose lease has ended; only `Segment.release` calls this."""
        with self._changed:
            self._leased_bytes -= memory.capacity_bytes
            kept = not self._closed and memory.name not in self._retired
            self._retired.discard(memory.name)
            if kept:
                self._idle[memory.capacity_bytes].append(memory)
                self._idle_bytes += memory.capacity_bytes
            self._changed.notify_all()
        if not kept:
            memory.remove()

    def close(self) -> None:
        """Remove every idle segment now, and each leased one as it comes back."""
        with self._changed:
            self._closed = True
            surplus = self._take_surplus()
        for idle in surplus:
            idle.remove()

    def _take_idle(self, size: int) -> _Memory | None:
        """Take idle memory of a size, or of a larger one that is not too much larger to be cut."""
        fitting = [idle for idle, segments in self._idle.items() if segments and size <= idle <= 2 * size]
        if not fitting:
            return None
        found = min(fitting)
        self._idle_bytes -= found
        return self._idle[found].pop()

    def _take_surplus(self) -> list[_Memory]:
        """Take idle memory, the largest first, until the rest fits beside what is leased; all of it once closed."""
        surplus: list[_Memory] = []
        room = 0 if self._closed else self.capacity_bytes - self._leased_bytes
        while self._idle_bytes > room:
            size = max(size for size, segments in self._idle.items() if segments)
            surplus.append(self._idle[size].pop())
            self._idle_bytes -= size
        return surplus

    def _create_leased(self, size: int, nbytes: int) -> _Memory:
        """Create memory that is counted as leased already; fresh pages take their time, and nobody waits for them."""
        try:
            return self._create(size, nbytes)
        except BaseException:
            with self._changed:
                self._leased_bytes -= size
                self._changed.notify_all()
            raise

    def _create(self, size: int, nbytes: int) -> _Memory:
        try:
            return _Own.create(size) if self._own else _Shared.create(self._folder, size)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.ENOMEM, errno.EFBIG, errno.EMFILE, errno.ENFILE):
                raise self._full(nbytes) from None
            raise

    @property
    def _kind(self) -> str:
        return "memory" if self._own else "shared memory"

    def _full(self, nbytes: int) -> ArenaFull:
        return ArenaFull(
            f"{self._kind}: {nbytes} bytes wanted, {self._leased_bytes} of {self.capacity_bytes} are in use",
            limit=self.capacity_bytes,
            got=nbytes,
            retry_after_s=_RETRY_AFTER_S,
        )


def arena_remedy(*, own: bool) -> str:
    """Say what makes an arena larger; ``own`` tells whether it is memory of the process."""
    setting = "NORMTREE_ARENA_BYTES sets it"
    return setting if own else f"{setting}, and a container's shared memory is what shm_size (--shm-size) gives it"


def segment_bytes(nbytes: int) -> int:
    """Return the bytes set aside for a lease: one of four sizes in each doubling, so that segments fit others too."""
    if nbytes <= _SMALLEST_BYTES:
        return _SMALLEST_BYTES
    step = 1 << (nbytes - 1).bit_length() - 3
    return -(-nbytes // step) * step


def _create_locked(folder: Path) -> tuple[str, int]:
    """Create a file that is locked before anybody can take it for an orphan; return its path and descriptor.

    Between the two steps `remove_orphans` may lock it, and remove it. Then another is made.
    """
    while True:
        path = folder / f"{PREFIX}{os.getpid()}-{secrets.token_hex(8)}"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        if lock_own(path, descriptor, fcntl.LOCK_EX):
            return str(path), descriptor
        path.unlink(missing_ok=True)
        os.close(descriptor)


def lock_own(path: Path, descriptor: int, kind: int) -> bool:
    """Lock a file that was just made, and tell whether it was in time: whoever removes orphans locks them too.

    Args:
        path: of the file, a name that no other ever has.
        descriptor: of the file.
        kind: `fcntl.LOCK_EX` or `fcntl.LOCK_SH`.

    Raises:
        OSError: files of this kind cannot be locked.
    """
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return path.exists()


def remove_orphans(folder: Path) -> int:
    """Remove segments in a folder whose owners no longer live; return how many there were."""
    removed = 0
    for path in folder.glob(f"{PREFIX}*"):
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # removed meanwhile, or another user's
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
            removed += 1
        except BlockingIOError:  # its owner lives
            pass
        finally:
            os.close(descriptor)
    return removed


def shared_memory() -> Path:
    """Return the folder of this node's shared memory, or one of files where there is none to write to."""
    folder = Path("/dev/shm")
    return folder if folder.is_dir() and os.access(folder, os.W_OK) else Path(tempfile.gettempdir())
