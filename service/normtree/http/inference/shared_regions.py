"""Regions of clients' shared memory, by Triton's extension of the Open Inference Protocol.

A client on this machine registers a segment that it made, and then names parts of it instead of sending tensors. The
service links what it registers under a name of its own: so a name always means the same memory, for the workers too,
whatever the client does with its own name.

The size is checked at every use, before and after. A client that cuts its segment short while the service works in it
ends no more than the worker that touches it: this process guards what it maps. Its region is refused from then on.
"""

import errno
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from time import sleep

from normtree.engine.memory.arena import PREFIX, lock_own
from normtree.engine.memory.tensor import Tensor, attach
from normtree.engine.memory.vanishing_memory import Guarded, guard, release
from normtree.errors import InvalidParameter, RegionRefused
from normtree.formats.contents import Entry
from normtree.formats.elements import BY_NAME
from normtree.formats.oip import Region
from normtree.http.access.auth import ANYBODY, Caller

_FOLDER = Path("/dev/shm")
_KEY = re.compile(r"/[A-Za-z0-9_.-]{1,200}", re.ASCII)
_NAME_SHOWN = 80
_REGIONS_LIMIT = 1024
_TRIES, _BETWEEN_S = 5, 0.002


@dataclass(eq=False)
class Registered:
    """A region.

    Args:
        owner: name of the key that registered it.
        name: by which its requests mean it.
        key: the client's name for the segment.
        offset: bytes of the segment before the region.
        nbytes: bytes of the region.
        link: our name for the segment.
        descriptor: of the segment, open and locked, so that it is not taken for an orphan.
        guarded: this process's map of the segment.
        uses: requests that use it.
        gone: whether it is to be closed once there is none.
    """

    owner: str
    name: str
    key: str
    offset: int
    nbytes: int
    link: Path
    descriptor: int
    guarded: Guarded
    uses: int = 0
    gone: bool = False

    @property
    def segment(self) -> tuple[int, int]:
        """What tells its segment from others, whatever it is called."""
        found = os.fstat(self.descriptor)
        return found.st_dev, found.st_ino

    def as_dict(self) -> dict[str, str | int]:
        """As the extension has it."""
        return {"name": self.name, "key": self.key, "offset": self.offset, "byte_size": self.nbytes}

    def check(self) -> None:
        """Refuse it if its segment was cut short, now or before.

        Raises:
            RegionRefused: it was.
        """
        try:
            _check_size(self.descriptor, self.offset + self.nbytes, self.name)
        except RegionRefused:
            self.guarded.cut = True  # whoever has mapped it meanwhile has not mapped all of it
            raise
        if self.guarded.cut:
            detail = (
                f"region {self.name[:_NAME_SHOWN]!r}: its segment was cut short while it was used; register it again"
            )
            raise RegionRefused(detail, pointer="name", got=self.name)

    def close(self) -> None:
        """Forget the segment, when no request uses it any more."""
        self.gone = True
        if not self.uses:
            release(self.guarded)
            self.link.unlink(missing_ok=True)
            os.close(self.descriptor)


@dataclass(frozen=True)
class Use:
    """A region that a request uses.

    Args:
        region: which.
        tensor: what lies in a part of it.
    """

    region: Registered
    tensor: Tensor


class Regions:
    """The regions that clients have registered, each with names of its own; an admin finds those of others too.

    Args:
        prefix: what a key must begin with, the slash included.
    """

    def __init__(self, prefix: str) -> None:
        """Start with none."""
        self._prefix = prefix
        self._regions: dict[tuple[str, str], Registered] = {}
        self._lock = Lock()

    def register(self, caller: Caller, name: str, key: str, offset: int, nbytes: int) -> None:
        """Make a region of a part of a segment.

        Args:
            caller: whose it will be.
            name: by which requests will mean it.
            key: as `shm_open` has it, with the slash.
            offset: bytes of the segment before the region.
            nbytes: bytes of the region.

        Raises:
            RegionRefused: a key that is not permitted, no such segment, or one that is too short or another client's;
                a name that is taken.
        """
        if not (_KEY.fullmatch(key) and key.startswith(self._prefix)):
            raise RegionRefused(
                f"key: wanted a name of letters, digits, _, . and - that begins with {self._prefix}",
                pointer="key",
                limit=self._prefix,
                got=key,
            )
        with self._lock:
            if (caller.name, name) in self._regions:
                raise RegionRefused(f"name: {name[:_NAME_SHOWN]!r} is registered already", pointer="name", got=name)
            if sum(owner == caller.name for owner, _ in self._regions) >= _REGIONS_LIMIT:
                detail = f"regions: at most {_REGIONS_LIMIT} are registered"
                raise RegionRefused(detail, pointer="name", limit=_REGIONS_LIMIT, got=_REGIONS_LIMIT + 1)
            found = _open(caller.name, name, key, offset, nbytes)
            if any(other.owner != caller.name and other.segment == found.segment for other in self._regions.values()):
                found.close()
                raise RegionRefused("key: the segment is another client's", pointer="key", got=key)
            self._regions[caller.name, name] = found

    def unregister(self, caller: Caller, name: str | None = None) -> None:
        """Forget a region, or all that are the caller's; one that is not there is forgotten already."""
        with self._lock:
            found = self._all(caller) if name is None else self._named(caller, name)[:1]
            for region in found:
                del self._regions[region.owner, region.name]
                region.close()

    def status(self, caller: Caller, name: str | None = None) -> list[dict[str, str | int]]:
        """Tell of a region, or of all that are the caller's.

        Raises:
            RegionRefused: there is no region of that name.
        """
        with self._lock:
            found = self._all(caller) if name is None else [self._find(caller, name)]
        return [region.as_dict() for region in found]

    @contextmanager
    def use(self, caller: Caller, part: Region, entry: Entry) -> Iterator[Use]:
        """Use the part of a region that a tensor lies in.

        Raises:
            RegionRefused: there is no such region, or it or its segment is too short.
            InvalidParameter: the part begins where no element of that type can.
        """
        with self._lock:
            region = self._find(caller, part.name)
            if part.offset + part.nbytes > region.nbytes:
                end = part.offset + part.nbytes
                detail = f"shared_memory_offset: the region has {region.nbytes} bytes, got {end}"
                raise RegionRefused(detail, pointer="shared_memory_offset", limit=region.nbytes, got=end)
            region.check()
            start = region.offset + part.offset
            itemsize = BY_NAME[entry.dtype].itemsize
            if start % itemsize:
                which = f"{entry.dtype} begins at multiples of {itemsize} in a segment"
                detail = f"shared_memory_offset: {which}, got {start}"
                raise InvalidParameter(detail, pointer="shared_memory_offset", limit=itemsize, got=start)
            region.uses += 1
        try:
            yield Use(region, Tensor(str(region.link), entry.shape, entry.dtype, "C", start))
        finally:
            with self._lock:
                region.uses -= 1
                if region.gone:
                    region.close()

    def check_apart(self, caller: Caller, source: Region, target: Region) -> None:
        """Refuse an output over its own input: a leaf that is run again would read what it wrote.

        Raises:
            RegionRefused: there is no such region.
            InvalidParameter: they overlap.
        """
        with self._lock:
            first, second = self._find(caller, source.name), self._find(caller, target.name)
            start, other = first.offset + source.offset, second.offset + target.offset
            overlap = start < other + target.nbytes and other < start + source.nbytes
            if overlap and first.segment == second.segment:
                detail = "outputs[0]: its shared memory must not overlap the input's"
                raise InvalidParameter(detail, pointer="outputs[0].parameters.shared_memory_offset")

    def close(self) -> None:
        """Forget all regions."""
        self.unregister(ANYBODY)

    def _all(self, caller: Caller) -> list[Registered]:
        return [region for region in self._regions.values() if caller.may_use(region.owner)]

    def _named(self, caller: Caller, name: str) -> list[Registered]:
        """Return the regions of a name, the caller's own first."""
        found = [region for region in self._all(caller) if region.name == name]
        return sorted(found, key=lambda region: region.owner != caller.name)

    def _find(self, caller: Caller, name: str) -> Registered:
        found = self._named(caller, name)
        if not found:
            detail = f"shared_memory_region: {name[:_NAME_SHOWN]!r} is not registered"
            raise RegionRefused(detail, pointer="name", got=name)
        return found[0]


def _open(owner: str, name: str, key: str, offset: int, nbytes: int) -> Registered:
    """Link a segment under a name of ours, and lock it; again where a process looked just then whether it is orphaned.

    Raises:
        RegionRefused: there is no such segment, or it is too short, no regular file, or locked by another.
    """
    for _ in range(_TRIES):
        found = _open_once(owner, name, key, offset, nbytes)
        if found:
            return found
        sleep(_BETWEEN_S)
    raise RegionRefused("key: the segment is locked by another", pointer="key", got=key)


def _open_once(owner: str, name: str, key: str, offset: int, nbytes: int) -> Registered | None:
    """Link a segment under a name of ours, and open what that name now means; None where it cannot be locked now."""
    link = _FOLDER / f"{PREFIX}{os.getpid()}-{secrets.token_hex(8)}"
    try:
        os.link(_FOLDER / key[1:], link, follow_symlinks=False)
        descriptor = os.open(link, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        link.unlink(missing_ok=True)
        raise RegionRefused(f"key: the segment cannot be opened: {_why(error)}", pointer="key", got=key) from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise RegionRefused("key: the segment is no regular file", pointer="key", got=key)
        _check_size(descriptor, offset + nbytes, name)
        if lock_own(link, descriptor, fcntl.LOCK_SH):
            return Registered(owner, name, key, offset, nbytes, link, descriptor, guard(attach(str(link))))
    except (OSError, MemoryError, ValueError, RegionRefused) as error:
        link.unlink(missing_ok=True)
        os.close(descriptor)
        if isinstance(error, RegionRefused):
            raise
        raise RegionRefused(f"key: the segment cannot be used: {_why(error)}", pointer="key", got=key) from None
    link.unlink(missing_ok=True)
    os.close(descriptor)
    return None


def _why(error: Exception) -> str:
    """Say what a system found wrong."""
    return errno.errorcode.get(error.errno or 0, "error") if isinstance(error, OSError) else str(error)


def _check_size(descriptor: int, wanted: int, name: str) -> None:
    """Refuse a segment that ends before a region does."""
    size = os.fstat(descriptor).st_size
    if size < wanted:
        detail = f"region {name[:_NAME_SHOWN]!r}: {wanted} bytes are wanted, its segment has {size}"
        raise RegionRefused(detail, pointer="byte_size", limit=size, got=wanted)
