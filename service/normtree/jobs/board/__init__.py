"""The jobs of a service."""
