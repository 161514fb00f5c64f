"""Regions of clients' shared memory, by Triton's extension of the Open Inference Protocol.

A client on this machine registers a segment that it made, and then names parts of it instead of sending tensors. The
service keeps what it registers open: so a name always means the same memory, whatever the client does with its own.

Nothing of it is mapped: who works in a map of a segment that its client cuts short is ended by the kernel. Bytes are
copied out of it before the work and into it after, by calls that tell of its end; so the client may also write to its
tensor meanwhile, or have the projection put in its place.
"""

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from normtree.errors import InvalidParameter, RegionRefused
from normtree.http.auth import ANYBODY, Caller
from normtree.http.bodies.contents import Entry
from normtree.http.bodies.elements import BY_NAME
from normtree.http.bodies.oip import Region

_FOLDER = Path("/dev/shm")
_KEY = re.compile(r"/[A-Za-z0-9_.-]{1,200}", re.ASCII)
_NAME_SHOWN = 80
_REGIONS_LIMIT = 1024
_WRITE_BYTES = 2**24  # at once, and then the segment is looked at again


@dataclass(frozen=True)
class Registered:
    """A region.

    Args:
        owner: name of the key that registered it.
        name: by which its requests mean it.
        key: the client's name for the segment.
        offset: bytes of the segment before the region.
        nbytes: bytes of the region.
        descriptor: of the segment, open.
    """

    owner: str
    name: str
    key: str
    offset: int
    nbytes: int
    descriptor: int

    @property
    def segment(self) -> tuple[int, int]:
        """What tells its segment from others, whatever it is called."""
        found = os.fstat(self.descriptor)
        return found.st_dev, found.st_ino

    def as_dict(self) -> dict[str, str | int]:
        """As the extension has it."""
        return {"name": self.name, "key": self.key, "offset": self.offset, "byte_size": self.nbytes}

    def close(self) -> None:
        """Forget the segment; requests that use it go on."""
        os.close(self.descriptor)


@dataclass(frozen=True)
class Window:
    """A part of a region that one request reads or writes.

    Args:
        name: of the region.
        descriptor: of its segment, this request's own.
        start: bytes of the segment before the part.
        nbytes: bytes of the part.
    """

    name: str
    descriptor: int
    start: int
    nbytes: int

    def read_into(self, buffer: memoryview) -> None:
        """Copy the part.

        Raises:
            RegionRefused: its client has cut the segment short, or it cannot be read.
        """
        done = 0
        while done < self.nbytes:
            with _told(self.name):
                count = os.preadv(self.descriptor, [buffer[done : self.nbytes]], self.start + done)
            if not count:
                _check_size(self.descriptor, self.start + self.nbytes, self.name)
            done += count

    def write(self, data: memoryview) -> None:
        """Put bytes into the part.

        Raises:
            RegionRefused: its client has cut the segment short, or it cannot be written.
        """
        done = 0
        while done < self.nbytes:
            _check_size(self.descriptor, self.start + self.nbytes, self.name)  # to write would make it long again
            with _told(self.name):
                done += os.pwrite(self.descriptor, data[done : done + _WRITE_BYTES], self.start + done)


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
    def window(self, caller: Caller, part: Region, entry: Entry) -> Iterator[Window]:
        """Open the part of a region that a tensor lies in.

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
            _check_size(region.descriptor, region.offset + region.nbytes, region.name)
            start = region.offset + part.offset
            itemsize = BY_NAME[entry.dtype].itemsize
            if start % itemsize:
                detail = (
                    f"shared_memory_offset: {entry.dtype} begins at multiples of {itemsize} in a segment, got {start}"
                )
                raise InvalidParameter(detail, pointer="shared_memory_offset", limit=itemsize, got=start)
            descriptor = os.dup(region.descriptor)
        try:
            yield Window(region.name, descriptor, start, part.nbytes)
        finally:
            os.close(descriptor)

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
    """Open a segment.

    Raises:
        RegionRefused: there is no such segment, or it is too short or no regular file.
    """
    try:
        descriptor = os.open(_FOLDER / key[1:], os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        why = errno.errorcode.get(error.errno or 0, "error")
        raise RegionRefused(f"key: the segment cannot be opened: {why}", pointer="key", got=key) from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise RegionRefused("key: the segment is no regular file", pointer="key", got=key)
        _check_size(descriptor, offset + nbytes, name)
    except RegionRefused:
        os.close(descriptor)
        raise
    return Registered(owner, name, key, offset, nbytes, descriptor)


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Turn what the system says of a segment into our words.

    Raises:
        RegionRefused: always when it says something.
    """
    try:
        yield
    except OSError as error:
        why = errno.errorcode.get(error.errno or 0, "error")
        raise RegionRefused(
            f"region {name[:_NAME_SHOWN]!r}: its segment cannot be used: {why}", pointer="name"
        ) from None


def _check_size(descriptor: int, wanted: int, name: str) -> None:
    """Refuse a segment that ends before a region does."""
    size = os.fstat(descriptor).st_size
    if size < wanted:
        detail = f"region {name[:_NAME_SHOWN]!r}: {wanted} bytes are wanted, its segment has {size}"
        raise RegionRefused(detail, pointer="byte_size", limit=size, got=wanted)
