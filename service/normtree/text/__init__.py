"""Texts of strangers: patterns of names, and names fit to be shown."""
