"""How engines and sizes are called."""

MIB = 2**20
NAMES = {"inline": "threads", "ray": "Ray"}


def bytes_text(nbytes: float) -> str:
    """A size as people write it: 64 KiB, 2 GiB, 100 TB where it is a power of ten."""
    for unit, size in (("TB", 1e12), ("GB", 1e9)):
        if nbytes >= size and nbytes % size == 0:
            return f"{nbytes / size:g} {unit}"
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", MIB)):
        if nbytes >= size:
            return f"{nbytes / size:g} {unit}"
    return f"{nbytes / 1024:g} KiB"
