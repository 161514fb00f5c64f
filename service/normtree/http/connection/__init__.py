"""A connection: what a client may make it hold or wait for, and how it ends."""
