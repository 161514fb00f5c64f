"""Seals: a digest behind bytes that are kept, by which they are known when they are read back.

Against disks, half writes and mistakes; whoever can write the bytes can write their seal too.
"""

import hashlib

_BYTES = hashlib.sha256().digest_size


def seal(data: bytes, about: bytes = b"") -> bytes:
    """Return bytes with their digest behind them.

    Args:
        data: what is to be kept.
        about: what it belongs to; sealed with it, and not kept.
    """
    return data + _digest(data, about)


def unseal(sealed: bytes, about: bytes = b"") -> bytes | None:
    """Return the bytes that were sealed; None where they are not those, or belong to something else.

    Args:
        sealed: as `seal` returned it.
        about: as it was then.
    """
    data, digest = sealed[:-_BYTES], sealed[-_BYTES:]
    return data if len(sealed) >= _BYTES and digest == _digest(data, about) else None


def _digest(data: bytes, about: bytes) -> bytes:
    return hashlib.sha256(len(about).to_bytes(8, "little") + about + data).digest()
