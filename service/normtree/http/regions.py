"""Regions of clients' shared memory, by Triton's extension of the Open Inference Protocol.

A client on this machine registers a segment that it made, and then names parts of it instead of sending tensors. The
service links what it registers under a name of its own: so a name always means the same memory, for the workers too,
whatever the client does with its own name.

The size is checked at every use. A client that cuts its segment short while the service works in it can still end a
process of the service, as the kernel then signals it: register nobody's memory whom you would not let do that.
"""

import errno
import fcntl
import os
import re
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from time import sleep

from normtree.engine.arena import PREFIX, lock_own
from normtree.engine.tensor import Tensor
from normtree.errors import InvalidParameter, RegionRefused
from normtree.http.bodies.contents import Entry
from normtree.http.bodies.elements import BY_NAME
from normtree.http.bodies.oip import Region

_FOLDER = Path("/dev/shm")
_KEY = re.compile(r"/[A-Za-z0-9_.-]{1,200}", re.ASCII)
_NAME_SHOWN = 80
_REGIONS_LIMIT = 1024
_TRIES, _BETWEEN_S = 5, 0.002


@dataclass(frozen=True)
class Registered:
    """A region.

    Args:
        name: by which requests mean it.
        key: the client's name for the segment.
        offset: bytes of the segment before the region.
        nbytes: bytes of the region.
        link: our name for the segment.
        descriptor: of the segment, open and locked, so that it is not taken for an orphan.
        identity: device and inode: two regions may be of one segment.
    """

    name: str
    key: str
    offset: int
    nbytes: int
    link: Path
    descriptor: int
    identity: tuple[int, int]

    def as_dict(self) -> dict[str, str | int]:
        """As the extension has it."""
        return {"name": self.name, "key": self.key, "offset": self.offset, "byte_size": self.nbytes}

    def close(self) -> None:
        """Forget the segment; who works in it may go on."""
        self.link.unlink(missing_ok=True)
        os.close(self.descriptor)


class Regions:
    """The regions that clients have registered.

    Args:
        prefix: what a key must begin with, the slash included.
    """

    def __init__(self, prefix: str) -> None:
        """Start with none."""
        self._prefix = prefix
        self._regions: dict[str, Registered] = {}
        self._lock = Lock()

    def register(self, name: str, key: str, offset: int, nbytes: int) -> None:
        """Make a region of a part of a segment.

        Args:
            name: by which requests will mean it.
            key: as `shm_open` has it, with the slash.
            offset: bytes of the segment before the region.
            nbytes: bytes of the region.

        Raises:
            RegionRefused: a key that is not permitted, no such segment, or one that is too short; a name that is taken.
        """
        if not (_KEY.fullmatch(key) and key.startswith(self._prefix)):
            raise RegionRefused(
                f"key: wanted a name of letters, digits, _, . and - that begins with {self._prefix}",
                pointer="key",
                limit=self._prefix,
                got=key,
            )
        with self._lock:
            if name in self._regions:
                raise RegionRefused(f"name: {name[:_NAME_SHOWN]!r} is registered already", pointer="name", got=name)
            if len(self._regions) >= _REGIONS_LIMIT:
                detail = f"regions: at most {_REGIONS_LIMIT} are registered"
                raise RegionRefused(detail, pointer="name", limit=_REGIONS_LIMIT, got=_REGIONS_LIMIT + 1)
            self._regions[name] = _open(name, key, offset, nbytes)

    def unregister(self, name: str | None = None) -> None:
        """Forget a region, or all of them; one that is not there is forgotten already."""
        with self._lock:
            names = list(self._regions) if name is None else [name]
            for gone in names:
                region = self._regions.pop(gone, None)
                if region:
                    region.close()

    def status(self, name: str | None = None) -> list[dict[str, str | int]]:
        """Tell of a region, or of all of them.

        Raises:
            RegionRefused: there is no region of that name.
        """
        with self._lock:
            found = list(self._regions.values()) if name is None else [self._find(name)]
        return [region.as_dict() for region in found]

    def tensor(self, part: Region, entry: Entry) -> Tensor:
        """Return the tensor that lies in a part of a region.

        Raises:
            RegionRefused: there is no such region, or it or its segment is too short.
            InvalidParameter: the part begins where no element of that type can.
        """
        with self._lock:
            region = self._find(part.name)
            if part.offset + part.nbytes > region.nbytes:
                end = part.offset + part.nbytes
                detail = f"shared_memory_offset: the region has {region.nbytes} bytes, got {end}"
                raise RegionRefused(detail, pointer="shared_memory_offset", limit=region.nbytes, got=end)
            _check_size(region.descriptor, region.offset + region.nbytes, region.name)
        start = region.offset + part.offset
        itemsize = BY_NAME[entry.dtype].itemsize
        if start % itemsize:
            detail = f"shared_memory_offset: {entry.dtype} begins at multiples of {itemsize} in a segment, got {start}"
            raise InvalidParameter(detail, pointer="shared_memory_offset", limit=itemsize, got=start)
        return Tensor(str(region.link), entry.shape, entry.dtype, "C", start)

    def check_apart(self, source: Region, target: Region) -> None:
        """Refuse an output over its own input: a leaf that is run again would read what it wrote.

        Raises:
            RegionRefused: there is no such region.
            InvalidParameter: they overlap.
        """
        with self._lock:
            first, second = self._find(source.name), self._find(target.name)
        start, other = first.offset + source.offset, second.offset + target.offset
        if first.identity == second.identity and start < other + target.nbytes and other < start + source.nbytes:
            detail = "outputs[0]: its shared memory must not overlap the input's"
            raise InvalidParameter(detail, pointer="outputs[0].parameters.shared_memory_offset")

    def close(self) -> None:
        """Forget all regions."""
        self.unregister()

    def _find(self, name: str) -> Registered:
        if name not in self._regions:
            detail = f"shared_memory_region: {name[:_NAME_SHOWN]!r} is not registered"
            raise RegionRefused(detail, pointer="name", got=name)
        return self._regions[name]


def _open(name: str, key: str, offset: int, nbytes: int) -> Registered:
    """Link a segment under a name of ours, and lock it; again where a process looked just then whether it is orphaned.

    Raises:
        RegionRefused: there is no such segment, or it is too short, no regular file, or locked by another.
    """
    for _ in range(_TRIES):
        found = _open_once(name, key, offset, nbytes)
        if found:
            return found
        sleep(_BETWEEN_S)
    raise RegionRefused("key: the segment is locked by another", pointer="key", got=key)


def _open_once(name: str, key: str, offset: int, nbytes: int) -> Registered | None:
    """Link a segment under a name of ours, and open what that name now means; None where it cannot be locked now."""
    link = _FOLDER / f"{PREFIX}{os.getpid()}-{secrets.token_hex(8)}"
    try:
        os.link(_FOLDER / key[1:], link, follow_symlinks=False)
        descriptor = os.open(link, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        link.unlink(missing_ok=True)
        why = errno.errorcode.get(error.errno or 0, "error")
        raise RegionRefused(f"key: the segment cannot be opened: {why}", pointer="key", got=key) from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise RegionRefused("key: the segment is no regular file", pointer="key", got=key)
        _check_size(descriptor, offset + nbytes, name)
        locked = lock_own(link, descriptor, fcntl.LOCK_SH)
    except (OSError, RegionRefused) as error:
        link.unlink(missing_ok=True)
        os.close(descriptor)
        if isinstance(error, RegionRefused):
            raise
        raise RegionRefused(f"key: the segment cannot be locked: {error.strerror}", pointer="key", got=key) from None
    if not locked:
        link.unlink(missing_ok=True)
        os.close(descriptor)
        return None
    return Registered(name, key, offset, nbytes, link, descriptor, (found.st_dev, found.st_ino))


def _check_size(descriptor: int, wanted: int, name: str) -> None:
    """Refuse a segment that ends before a region does."""
    size = os.fstat(descriptor).st_size
    if size < wanted:
        detail = f"region {name[:_NAME_SHOWN]!r}: {wanted} bytes are wanted, its segment has {size}"
        raise RegionRefused(detail, pointer="byte_size", limit=size, got=wanted)
