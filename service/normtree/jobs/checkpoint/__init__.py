"""A checkpoint, by its headers: files, indexes, tied weights."""
