"""Keys that open a service."""
