"""What longer commands do."""
