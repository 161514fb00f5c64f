"""What this machine can do: measured, kept, and turned into predictions."""
