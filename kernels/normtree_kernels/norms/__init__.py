"""Norms of vectors, one a file, and the mixed norms that are made of them."""
