"""Proofs of the output's files: noted when they are whole, and looked at before they are believed.

A file that looks as it did (size, time, inode) is believed without being read; one that was copied or touched since
is read, and its digest decides. The digest is a CRC-32: it tells cut, changed and other files apart at the rate at
which memory is read, and guards against nobody who wants to be believed: who writes the output writes the journal.
"""

from zlib import crc32

from normtree.errors import StorageFailed
from normtree.jobs.storage.places import Folder, Proof, Reader, Stat

_READ_BYTES = 1 << 20


def digest_of(reader: Reader, size: int) -> str:
    """Return the digest of a file that is open.

    Args:
        reader: of it.
        size: its bytes.

    Raises:
        StorageFailed: it cannot be read, or ends too early.
    """
    buffer = memoryview(bytearray(min(_READ_BYTES, size)))
    digest = 0
    for start in range(0, size, _READ_BYTES):
        part = buffer[: min(_READ_BYTES, size - start)]
        reader.read_into(start, part)
        digest = crc32(part, digest)
    return f"crc32:{digest:08x}"


def confirmed(folder: Folder, name: str, proof: Proof) -> Proof | None:
    """Return the proof of a file that is in its place, as it looks there now; None where it is not that file.

    Raises:
        StorageFailed: it cannot be read.
    """
    found = stat_of(folder, name)
    if found is None or found.size != proof.size:
        return None
    if not proof.fits(found) and not (proof.digest and _read_digest(folder, name, found.size) == proof.digest):
        return None
    return Proof(found.size, found.mark, found.inode, found.changed, proof.digest)


def proof_of(folder: Folder, name: str) -> Proof:
    """Read a file that is in its place and return what proves it.

    Raises:
        StorageFailed: it cannot be read.
    """
    found = folder.stat(name)
    return Proof(found.size, found.mark, found.inode, found.changed, _read_digest(folder, name, found.size))


def same_bytes(one: Folder, other: Folder, name: str) -> bool:
    """Tell whether two folders have a file of that name with the same bytes."""
    found = [stat_of(folder, name) for folder in (one, other)]
    if found[0] is None or found[1] is None or found[0].size != found[1].size:
        return False
    size = found[0].size
    buffers = [memoryview(bytearray(min(_READ_BYTES, size))) for _ in found]
    with one.reader(name) as first, other.reader(name) as second:
        for start in range(0, size, _READ_BYTES):
            parts = [buffer[: size - start] for buffer in buffers]
            first.read_into(start, parts[0])
            second.read_into(start, parts[1])
            if parts[0] != parts[1]:
                return False
    return True


def stat_of(folder: Folder, name: str) -> Stat | None:
    """Tell a file's version; None where there is none, or what is there is no file."""
    try:
        return folder.stat(name)
    except StorageFailed:
        return None


def _read_digest(folder: Folder, name: str, size: int) -> str:
    with folder.reader(name) as reader:
        return digest_of(reader, size)
