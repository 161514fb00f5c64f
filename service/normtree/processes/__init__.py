"""Processes and their machine: how they start and end, and what they may use."""
