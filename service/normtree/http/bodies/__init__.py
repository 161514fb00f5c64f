"""Formats of request and answer bodies, one a file."""
