"""Formats of tensors in bodies and files, one a file."""
