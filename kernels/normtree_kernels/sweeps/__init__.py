"""Sweeps of one level over a part of a tensor, up and down, whatever its norm."""
