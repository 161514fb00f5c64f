"""Units: numbers of bytes as people read them."""

_KIB = 1024


def size_text(nbytes: int) -> str:
    """Bytes in the largest unit that leaves one or more: ``4 KiB``, ``381.5 MiB``."""
    if nbytes < _KIB:
        return "1 byte" if nbytes == 1 else f"{nbytes} bytes"
    power = min(4, (nbytes.bit_length() - 1) // 10)
    return f"{round(nbytes / _KIB**power, 1):g} {'KMGT'[power - 1]}iB"
